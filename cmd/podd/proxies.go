package main

import (
	"context"
	"net"

	v1 "k8s.io/api/core/v1"

	"podd/network"
)

func (a *attendant) Dial(ctx context.Context, pod *v1.Pod, port int) (net.Conn, error) {
	return a.runtime.Network.Dial(ctx, networkOf(pod), port)
}

func (a *attendant) Addresses(pod *v1.Pod) ([]string, error) {
	return a.runtime.Network.Addresses(networkOf(pod))
}

// networkOf names a pod as the network knows it.
func networkOf(pod *v1.Pod) network.Pod {
	return network.Pod{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, HostNetwork: pod.Spec.HostNetwork}
}
