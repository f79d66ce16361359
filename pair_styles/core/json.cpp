#include "json.h"

#include "error.h"

#include <cctype>
#include <cstdlib>
#include <cstring>

namespace kan_md {

class JsonReader {
 public:
  explicit JsonReader(const std::string &text) : next_(text.c_str()), end_(next_ + text.size()) {}

  Json whole()
  {
    Json value = read();
    if (peek() != '\0') fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const
  {
    throw Error("outputs of the model file must be JSON",
                "'" + std::string(next_, std::min<std::size_t>(20, end_ - next_)) + "'", "",
                "deploy the model again");
  }

  char peek()
  {
    while (next_ < end_ && std::isspace(static_cast<unsigned char>(*next_))) ++next_;
    return next_ < end_ ? *next_ : '\0';
  }

  bool take(char character)
  {
    if (peek() != character) return false;
    ++next_;
    return true;
  }

  void expect(char character)
  {
    if (!take(character)) fail();
  }

  bool take_word(const char *word)
  {
    const std::size_t length = std::strlen(word);
    if (static_cast<std::size_t>(end_ - next_) < length || std::strncmp(next_, word, length) != 0)
      return false;
    next_ += length;
    return true;
  }

  Json read()
  {
    Json value;
    const char first = peek();
    if (take('{')) {
      value.type_ = Json::Type::OBJECT;
      if (take('}')) return value;
      do {
        const std::string key = read_string();
        expect(':');
        value.members_[key] = read();
      } while (take(','));
      expect('}');
    } else if (take('[')) {
      value.type_ = Json::Type::ARRAY;
      if (take(']')) return value;
      do value.elements_.push_back(read());
      while (take(','));
      expect(']');
    } else if (first == '"') {
      value.type_ = Json::Type::STRING;
      value.string_ = read_string();
    } else if (take_word("true") || take_word("false")) {
      value.type_ = Json::Type::BOOLEAN;
      value.boolean_ = first == 't';
    } else if (!take_word("null")) {
      value.type_ = Json::Type::NUMBER;
      char *stop = nullptr;
      value.number_ = std::strtod(next_, &stop);
      if (stop == next_) fail();
      next_ = stop;
    }
    return value;
  }

  std::string read_string()
  {
    expect('"');
    std::string text;
    while (next_ < end_ && *next_ != '"') {
      if (*next_ == '\\' && next_ + 1 < end_ && std::strchr("\"\\/", next_[1])) ++next_;
      text += *next_++;
    }
    if (next_ == end_) fail();
    ++next_;
    return text;
  }

  const char *next_, *end_;
};

Json Json::parse(const std::string &text)
{
  return JsonReader(text).whole();
}

void Json::require(Type type, const char *name) const
{
  if (type_ != type)
    throw Error(std::string("outputs of the model file: a value must be ") + name, "something else",
                "", "deploy the model again");
}

const Json &Json::at(const std::string &key) const
{
  const auto found = members_.find(key);
  if (found == members_.end())
    throw Error("outputs of the model file must have the key " + key, "none", "",
                "deploy the model again with this version of kan-md");
  return found->second;
}

const Json &Json::at(std::size_t index) const
{
  require(Type::ARRAY, "a list");
  if (index >= elements_.size())
    throw Error("outputs of the model file: a list is too short", std::to_string(size()), "",
                "deploy the model again");
  return elements_[index];
}

std::vector<std::string> Json::keys() const
{
  std::vector<std::string> names;
  for (const auto &member : members_) names.push_back(member.first);
  return names;
}

double Json::number() const
{
  require(Type::NUMBER, "a number");
  return number_;
}

bool Json::boolean() const
{
  require(Type::BOOLEAN, "true or false");
  return boolean_;
}

const std::string &Json::string() const
{
  require(Type::STRING, "a string");
  return string_;
}

}    // namespace kan_md
