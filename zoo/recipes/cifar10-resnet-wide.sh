#!/bin/sh
# Trains cifar10-resnet-wide.onnx, the base of a family in zoo/models. Needs CIFAR-10 in the official binary layout; run from the project's root after `npm ci`.
# Seed 1; 22,500 training images of a subset of 25,000, 2,500 for validation. About 75 minutes on 2 cores of an AMD EPYC (AVX-512).
set -eu
data=${1:?usage: cifar10-resnet-wide.sh CIFAR10_FOLDER}
common="--data cifar10:$data --batch 64 --augment shift=4,flip,cutout=8 --label-smoothing 0.1 --seed 1"
npx bonsai train $common --backbone resnet:widths=32-64-128,blocks=2-2-2 --epochs 16@0.5,14 --learning-rate 0.1 --out stage1.onnx
npx bonsai train $common --from stage1.onnx --epochs 14 --learning-rate 0.05 --out cifar10-resnet-wide.onnx
