// All optimizers, schedules and averages.
#pragma once

#include "anneal/optim/adam.h"
#include "anneal/optim/averaging.h"
#include "anneal/optim/clip.h"
#include "anneal/optim/grad_scaler.h"
#include "anneal/optim/lbfgs.h"
#include "anneal/optim/plateau.h"
#include "anneal/optim/schedule.h"
#include "anneal/optim/sgd.h"
