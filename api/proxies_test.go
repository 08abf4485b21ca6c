package api_test

import (
	"context"
	"net"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// Dial connects to what a test listens on, whatever the pod.
func (p *pods) Dial(ctx context.Context, _ *v1.Pod, port int) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func (p *pods) Addresses(pod *v1.Pod) ([]string, error) {
	return []string{pod.Annotations["test/address"]}, nil
}
