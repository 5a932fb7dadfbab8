// Everything: tensors, layers, data, optimizers and the Trainer.
#pragma once

#include "anneal/core/autograd.h"
#include "anneal/core/gradcheck.h"
#include "anneal/core/ops.h"
#include "anneal/core/safetensors.h"
#include "anneal/core/tensor.h"
#include "anneal/data/data_loader.h"
#include "anneal/data/idx.h"
#include "anneal/data/mnist.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/optim.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/cli.h"
#include "anneal/trainer/json_logger.h"
#include "anneal/trainer/report.h"
#include "anneal/trainer/tensorboard_logger.h"
#include "anneal/trainer/trainer.h"
