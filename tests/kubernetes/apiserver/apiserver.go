// Package apiserver holds the versions of kube-apiserver and of its dependencies; nothing is in it.
package apiserver

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
