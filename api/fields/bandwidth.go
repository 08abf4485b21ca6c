package fields

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Annotations that limit what a pod receives and sends, in bits per second (containerd's CRI, internal/cri/bandwidth).
const (
	IngressBandwidth = "kubernetes.io/ingress-bandwidth"
	EgressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// leastBandwidth and mostBandwidth are what upstream takes for a bandwidth.
var leastBandwidth, mostBandwidth = resource.MustParse("1k"), resource.MustParse("1P")

// Bandwidth is what the annotations of a pod say, in bits per second; 0 is no limit.
func Bandwidth(pod *v1.Pod) (ingress, egress uint64, errs field.ErrorList) {
	read := func(key string) uint64 {
		text, ok := pod.Annotations[key]
		if !ok {
			return 0
		}
		path := field.NewPath("metadata", "annotations").Key(key)
		if pod.Spec.HostNetwork {
			errs = append(errs, field.Forbidden(path, "may not be set with hostNetwork: the host's own traffic is not limited"))
			return 0
		}
		rate, err := resource.ParseQuantity(text)
		if err != nil || rate.Cmp(leastBandwidth) < 0 || rate.Cmp(mostBandwidth) > 0 {
			errs = append(errs, field.Invalid(path, text, "must be bits per second, from 1k to 1P, like 10M"))
			return 0
		}
		return uint64(rate.Value())
	}
	return read(IngressBandwidth), read(EgressBandwidth), errs
}
