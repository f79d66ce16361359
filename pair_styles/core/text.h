// Numbers and words in text, whatever the locale of the process: with std::stod, or a stream, "4.5"
// is 4 where a comma is the decimal point.

#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kan_md {

// The number that all of `text` is, in the notation of C; nothing where it is none or too large.
inline std::optional<double> number_in(std::string_view text)
{
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// A number for a message or for an input that is proposed, with six digits.
inline std::string text_of(double value)
{
  char text[32];
  const auto end =
      std::to_chars(text, text + sizeof(text), value, std::chars_format::general, 6).ptr;
  return {text, end};
}

// With ? for each byte that belongs to no UTF-8 character, which other programs stumble over.
inline std::string utf8_of(std::string text)
{
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const std::size_t length = lead < 0x80                    ? 1
                               : lead >= 0xc2 && lead <= 0xdf ? 2
                               : lead >= 0xe0 && lead <= 0xef ? 3
                               : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                              : 0;
    std::size_t found = length > 0 ? 1 : 0;
    while (found > 0 && found < length && at + found < text.size() &&
           (static_cast<unsigned char>(text[at + found]) & 0xc0) == 0x80)
      ++found;
    if (length == 0 || found < length)
      text[at++] = '?';
    else
      at += length;
  }
  return text;
}

// Splits at any of `separators`; several in a row are one.
inline std::vector<std::string> words_of(std::string_view text,
                                         std::string_view separators = " \t\r\n")
{
  std::vector<std::string> words;
  for (;;) {
    const auto begin = text.find_first_not_of(separators);
    if (begin == std::string_view::npos) return words;
    text.remove_prefix(begin);
    const auto end = text.find_first_of(separators);
    words.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return words;
    text.remove_prefix(end);
  }
}

}    // namespace kan_md
