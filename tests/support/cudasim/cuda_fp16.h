#pragma once
#include "cudasim.h"
