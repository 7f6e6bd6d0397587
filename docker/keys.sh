#!/bin/sh
# keys.sh FOLDER: what a kube-apiserver needs before its first start: a key pair for service accounts, and one
# user with all rights and a random token. Left alone when it is there.
set -eu
cd "$1"
umask 077
[ -e sa.key ] || openssl genrsa -out sa.key 2048
[ -e sa.pub ] || openssl rsa -in sa.key -pubout -out sa.pub
[ -e tokens.csv ] || echo "$(openssl rand -hex 24),admin,admin,system:masters" >tokens.csv
