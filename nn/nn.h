// All layers.
#pragma once

#include "anneal/nn/activation.h"
#include "anneal/nn/attention.h"
#include "anneal/nn/conv.h"
#include "anneal/nn/embedding.h"
#include "anneal/nn/freezing.h"
#include "anneal/nn/init.h"
#include "anneal/nn/linear.h"
#include "anneal/nn/module.h"
#include "anneal/nn/norm.h"
#include "anneal/nn/sequential.h"
