#include "dirigent/policy/balancer.h"
