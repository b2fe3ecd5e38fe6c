// Boost.JSON compiled into the program: only built where the distribution has no libboost_json.
#include <boost/json/src.hpp>
