#include "dirigent/core/switchboard.h"
