package status

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestPodIPs(t *testing.T) {
	for _, c := range []struct {
		name            string
		own             bool // network of the host
		ips, host, want []string
	}{
		{"the host's family first", false, []string{"fd00::2", "10.0.0.2"}, []string{"192.0.2.1"}, []string{"10.0.0.2", "fd00::2"}},
		{"a host of the other family", false, []string{"10.0.0.2", "fd00::2"}, []string{"2001:db8::1"}, []string{"fd00::2", "10.0.0.2"}},
		{"one of a family", false, []string{"10.0.0.2", "10.0.0.3"}, []string{"192.0.2.1"}, []string{"10.0.0.2"}},
		{"the host's", true, []string{"10.0.0.2"}, []string{"192.0.2.1"}, []string{"192.0.2.1"}},
		{"none yet", false, nil, []string{"192.0.2.1"}, nil},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{HostNetwork: c.own}}
		if got := PodIPs(pod, c.ips, c.host); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
