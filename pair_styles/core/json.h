// Reads the JSON that the manifest's `outputs` is written in.

#pragma once

#include <map>
#include <string>
#include <vector>

namespace kan_md {

// A parsed value. Escapes other than \" \\ \/ and non-ASCII \u are kept as they are.
class Json {
 public:
  // Throws Error where the text is not JSON.
  static Json parse(const std::string &text);

  // Member of an object, element of an array. Throw Error where there is none.
  const Json &at(const std::string &key) const;
  const Json &at(std::size_t index) const;

  bool has(const std::string &key) const { return members_.count(key) > 0; }
  std::vector<std::string> keys() const;
  std::size_t size() const { return elements_.size(); }

  // Throw Error where the value is of another type.
  double number() const;
  bool boolean() const;
  const std::string &string() const;

 private:
  friend class JsonReader;
  enum class Type { NONE, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT };

  void require(Type type, const char *name) const;

  Type type_ = Type::NONE;
  bool boolean_ = false;
  double number_ = 0.0;
  std::string string_;
  std::vector<Json> elements_;
  std::map<std::string, Json> members_;
};

}    // namespace kan_md
