#!/usr/bin/env bash
# Makes go.mod anew for a version of Kubernetes: ./update.sh v1.34.2. Kubernetes asks for its parts, as k8s.io/api, at v0.0.0, and
# replaces them by folders of its own repository; who builds it as a module must replace them too, by the versions they are released as.
set -euo pipefail
cd "$(dirname "$0")"
version=$1 parts=v0${1#v1}
kubernetes=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
{
	sed -n '/^\/\//p' go.mod
	printf 'module pilotlight/deploy/kubernetes\n\ngo 1.26.0\n\nreplace (\n'
	sed -nE "s#^\t?(k8s.io/[a-z-]+) => ./staging/.*#\t\1 => \1 $parts#p" "$kubernetes"
	printf ')\n'
} > go.mod.new
mv go.mod.new go.mod
rm -f go.sum
etcd=$(sed -nE 's#^\tgo.etcd.io/etcd/server/v3 (v[^ ]*).*#\1#p' "$kubernetes")
go get -tool "k8s.io/kubernetes/cmd/kube-apiserver@$version" "k8s.io/kubernetes/cmd/kube-controller-manager@$version" \
	"k8s.io/kubernetes/cmd/kube-scheduler@$version" "go.etcd.io/etcd/server/v3@$etcd"
