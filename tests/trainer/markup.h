// Checks SVG and HTML files.
#pragma once

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

namespace anneal_test {

// Element names in order if the text is well-formed: every tag closed, attributes quoted, no stray < or &.
inline std::vector<std::string> elements_of(const std::string& xml) {
  static const std::regex token(R"(<\?[^?]*\?>|<(/?)([a-z][a-z0-9]*)((?:\s+[a-zA-Z0-9-]+="[^"<]*")*)\s*(/?)>|([^<]+))");
  static const std::regex bad_entity(R"(&(?!(lt|gt|amp|quot);))");
  std::vector<std::string> open, all;
  std::size_t at = 0;
  for (std::sregex_iterator it(xml.begin(), xml.end(), token), end; it != end; ++it) {
    EXPECT_EQ(static_cast<std::size_t>(it->position()), at) << "not XML: " << xml.substr(at, 60);
    at += static_cast<std::size_t>(it->length());
    EXPECT_FALSE(std::regex_search(it->str(), bad_entity)) << it->str();
    const std::string name = (*it)[2];
    if (name.empty()) continue;
    if ((*it)[1] == "/") {
      EXPECT_FALSE(open.empty());
      if (open.empty()) return {};
      EXPECT_EQ(open.back(), name);
      open.pop_back();
    } else {
      all.push_back(name);
      if ((*it)[4] != "/") open.push_back(name);
    }
  }
  EXPECT_EQ(at, xml.size());
  EXPECT_TRUE(open.empty());
  return all;
}

}  // namespace anneal_test
