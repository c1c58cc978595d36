#!/bin/sh
# Trains the bases of a family for ants and bees (244 training images), grows it and measures it on CPU 0. Needs the image
# folders, what cifar100-family.sh leaves (cifar100-resnet.onnx and cifar100-densenet.onnx, where the bases start from), and a ResNet-32 of others
# for CIFAR-100 that expects normalised pixels: fine-tuned to ants and bees it is the teacher of all. Run from the project's root after `npm ci`,
# in a repository that has mnist. Seed 1. About an hour on one core of an AMD EPYC. zoo/models/hymenoptera has twins and most of what
# others dominate taken out (`bonsai repo remove`).
set -eu
data=${1:?usage: hymenoptera.sh FOLDER RESNET32.onnx [REPOSITORY]}
resnet32=${2:?usage: hymenoptera.sh FOLDER RESNET32.onnx [REPOSITORY]}
out=${3:-models}
common="--data images:$data,size=48 --batch 16 --augment shift=5,flip,cutout=12 --seed 1 --threads 1"
taught="--teacher hymenoptera-teacher.onnx"
train="$common --new-head --clip-norm 1"
npx bonsai train $train --from "$resnet32" --normalize-input --epochs 15 --learning-rate 0.003 --out hymenoptera-teacher.onnx
npx bonsai train $train $taught --from cifar100-resnet.onnx --epochs 40 --learning-rate 0.01 --out hymenoptera-resnet.onnx
npx bonsai train $train $taught --from cifar100-densenet.onnx --epochs 40 --learning-rate 0.01 --out hymenoptera-densenet.onnx
port="$common $taught --task hymenoptera --out $out --int8 --keep all --learning-rate 0.01"
npx bonsai port hymenoptera-resnet.onnx $port --epochs 20 --criteria l2 --ratios 0.3,0.5,0.65,0.8 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 20 --criteria fpgm,taylor --ratios 0.5 --distill both
npx bonsai port hymenoptera-densenet.onnx $port --add --epochs 20 --criteria l2 --ratios 0.3 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 20 --criteria l2 --ratios 0.72,0.88 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 20 --criteria taylor --ratios 0.65,0.8,0.88 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 30 --criteria taylor --ratios 0.72,0.92,0.95 --distill only --threads 2
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 30 --criteria taylor --ratios 0.9,0.95 --align 4 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 50 --criteria taylor --ratios 0.25,0.4 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 50 --criteria taylor --ratios 0.7,0.8 --align 4 --distill only
npx bonsai profile "$out" --task hymenoptera --cpus 0 --again --contest mnist:6
npx bonsai repo remove "$out" hymenoptera --dominated
