package exposition

import (
	"io"
	"strconv"

	"podd/api/usage"
)

// Probes writes the kubelet's /metrics/probes.
func Probes(out io.Writer, all []usage.Probe) error {
	w := newWriter(out)
	const total = "prober_probe_total"
	w.family(total, counter, "Cumulative number of a liveness, readiness or startup probe for a container by result.")
	for i := range all {
		p := &all[i]
		who := labelled("container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "pod_uid", p.UID, "probe_type", p.Kind)
		if p.Failed > 0 {
			w.sample(total, float64(p.Failed), who, `result="failed"`)
		}
		if p.Succeeded > 0 {
			w.sample(total, float64(p.Succeeded), who, `result="successful"`)
		}
	}
	const seconds = "prober_probe_duration_seconds"
	w.family(seconds, "histogram", "Duration in seconds for a probe response.")
	for i := range all {
		p := &all[i]
		if p.Succeeded == 0 { // only those are timed
			continue
		}
		who := labelled("container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "probe_type", p.Kind)
		sum := uint64(0)
		for j, bound := range usage.ProbeTimes {
			sum += p.Within[j]
			w.sample(seconds+"_bucket", float64(sum), who, labelled("le", strconv.FormatFloat(bound, 'g', -1, 64)))
		}
		w.sample(seconds+"_bucket", float64(p.Succeeded), who, `le="+Inf"`)
		w.sample(seconds+"_sum", p.Took.Seconds(), who)
		w.sample(seconds+"_count", float64(p.Succeeded), who)
	}
	return w.end()
}
