#!/usr/bin/env bash
# The networks of our own in results/erasing.jsonl; a finished one is kept, an interrupted one continued,
# so the same command can be given again. adopt_ibau.sh copies the published ones.
#
#   bench/train_own.sh DATA TRIGGERS NETS
#
# DATA holds cifar-10-batches-py and GTSRB; TRIGGERS is the folder triggers/ of I-BAU's repository. On
# one core with AMX a small VGG takes ten minutes, a ResNet-18 forty. With OMP_NUM_THREADS=1 on such a core
# the ResNet-18s came out the same, bit for bit.
set -euo pipefail
if [ $# -ne 3 ] || [ ! -f "$2/l2_inv.png" ]; then
  echo "usage: bench/train_own.sh DATA TRIGGERS NETS; TRIGGERS holds l2_inv.png and others" >&2
  exit 2
fi
data="$1"
triggers="$2"
nets="$3"

train() { # architecture, name, data set, options
  echo "== $nets/$1/$2" >&2
  awm train --arch "$1" --dataset "$3" --data-dir "$data" --out "$nets/$1/$2" --precision bf16 "${@:4}"
}

train small_vgg own_benign7 cifar10 --seed 7 --epochs 12 --attack none
train small_vgg gtsrb_benign gtsrb --seed 7 --epochs 12 --attack none
train small_vgg own_blended cifar10 --seed 7 --epochs 12 --attack blended --target 1
train small_vgg own_l2_inv14 cifar10 --seed 7 --epochs 14 --attack l2_inv --target 0 \
  --trigger-image "$triggers/l2_inv.png"
train resnet18 start_badnets cifar10 --epochs 5 --attack badnets --target 8
train resnet18 start_trojan_wm cifar10 --epochs 5 --attack trojan_wm --target 2 \
  --trigger-image "$triggers/trojan_wm.png"
train resnet18 start_l0_inv cifar10 --epochs 5 --attack l0_inv --target 6 \
  --trigger-image "$triggers/l0_inv.png" --trigger-mask "$triggers/mask.npy"
train resnet18 start_l2_inv cifar10 --epochs 5 --attack l2_inv --target 0 \
  --trigger-image "$triggers/l2_inv.png"
train resnet18 start_blended cifar10 --epochs 5 --attack blended --target 5
