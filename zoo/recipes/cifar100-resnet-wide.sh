#!/bin/sh
# Trains the base of zoo/models/cifar100 from that of CIFAR-10. Needs CIFAR-100 in the official binary layout, and a ResNet-32 for it as a
# teacher (any ONNX network that expects normalised pixels); run from the project's root after `npm ci`. Seed 1; 12,600 training images
# of a subset of 14,000, 1,400 for validation. About 25 minutes on 2 cores of an AMD EPYC without AVX-512.
set -eu
data=${1:?usage: cifar100-resnet-wide.sh CIFAR100_FOLDER TEACHER.onnx}
teacher=${2:?usage: cifar100-resnet-wide.sh CIFAR100_FOLDER TEACHER.onnx}
npx bonsai quantize "$teacher" --data "cifar100:$data" --normalize-input --out teacher100-int8.onnx
npx bonsai train --data "cifar100:$data" --from zoo/models/cifar10/1/model.onnx --new-head --batch 64 --augment shift=4,flip,cutout=8 \
  --teacher teacher100-int8.onnx --teacher-normalize-input --distill-weight 0.9 --epochs 20 --learning-rate 0.08 --threads 2 --seed 1 \
  --out cifar100-resnet-wide.onnx
