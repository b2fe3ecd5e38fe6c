// Boost's own code, compiled once here instead of in every file (BOOST_ASIO_SEPARATE_COMPILATION and Beast's twin).
#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
