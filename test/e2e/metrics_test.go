//go:build host

package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	kubeletstats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// The pods that are measured, and what they do. Each says done when it has done it.
const (
	metricsCPU     = "metrics-cpu"     // works for some seconds, and then rests
	metricsLimited = "metrics-limited" // works for ever, for a tenth of the time
	metricsMemory  = "metrics-memory"  // has 64 MiB on a tmpfs, and 32 MiB of its own
	metricsFiles   = "metrics-files"   // has 10 MiB in an emptyDir, 5 MiB of its own and 1 MiB of log
	metricsNet     = "metrics-net"     // sends and receives 8 MiB
)

const mib = 1 << 20

// TestMetrics: what the kubelet's endpoints and metrics.k8s.io say of pods is what the pods have really used.
func TestMetrics(t *testing.T) {
	s := start(t)
	m := &metricsSuite{suite: s}
	rest := "; echo done; " + sleepScript
	s.apply(t,
		pod{Name: metricsCPU, Script: "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done" + rest,
			Container: "resources: {requests: {cpu: '1'}}"}, // or it would not come to its end on a busy host
		pod{Name: metricsLimited, Script: "echo done; trap 'exit 0' TERM; while :; do :; done", Container: "resources: {limits: {cpu: 100m, memory: 64Mi}}",
			Meta: "labels: {metrics: limited}"},
		pod{Name: metricsMemory, Script: "dd if=/dev/zero of=/mem/x bs=1M count=64 2>/dev/null; x=$(head -c 33554432 /dev/zero | tr '\\0' a)" + rest,
			Spec: "volumes: [{name: mem, emptyDir: {medium: Memory}}]", Container: "volumeMounts: [{name: mem, mountPath: /mem}]\nresources: {limits: {memory: 256Mi}}"},
		pod{Name: metricsFiles, Script: "dd if=/dev/zero of=/data/x bs=1M count=10 2>/dev/null; dd if=/dev/zero of=/x bs=1M count=5 2>/dev/null; " +
			"i=0; while [ $i -lt 1024 ]; do printf '%01023d\\n' 0; i=$((i+1)); done; sync" + rest,
			Spec: "volumes: [{name: data, emptyDir: {}}]", Container: "volumeMounts: [{name: data, mountPath: /data}]"},
		pod{Name: metricsNet, Script: "mkdir /www; dd if=/dev/zero of=/www/big bs=1M count=8 2>/dev/null; nc -l -p 9000 >/received & httpd -h /www -p 8080" + rest},
	)
	for _, name := range []string{metricsCPU, metricsLimited, metricsMemory, metricsFiles, metricsNet} {
		s.until(t, name, "ready", ready)
		eventually(t, func() error {
			if out := s.must(t, "logs", name, "--tail", "1"); out != "done\n" {
				return fmt.Errorf("pod %s is not done: %.50q", name, out)
			}
			return nil
		})
	}
	t.Run("cpu", m.cpu)
	t.Run("memory", m.memory)
	t.Run("network", m.network)
	t.Run("files", m.files)
	t.Run("limited", m.limited)
	t.Run("expositions", m.expositions)
	t.Run("kubelet", m.kubelet)
	t.Run("top", m.top)
	t.Run("node", m.node)
	t.Run("node-restart", m.nodeRestart)
}

type metricsSuite struct{ *suite }

// get asks podd's socket.
func (m *metricsSuite) get(t *testing.T, path string, header ...string) ([]byte, http.Header) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", m.Socket)
		}}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://podd"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v\n%s", path, answer.Status, err, body)
	}
	return body, answer.Header
}

// scrape parses an exposition, which has to be without fault: no line that is not understood, no series twice.
func (m *metricsSuite) scrape(t *testing.T, path string) map[string]*dto.MetricFamily {
	t.Helper()
	body, header := m.get(t, path)
	if !strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%s has the type %q", path, header.Get("Content-Type"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for name, family := range found {
		seen := map[string]bool{}
		for _, metric := range family.Metric {
			key := fmt.Sprint(metric.Label)
			if seen[key] {
				t.Errorf("%s: %s is there twice with %s", path, name, key)
			}
			seen[key] = true
		}
		if family.Type == nil || family.GetType() == dto.MetricType_UNTYPED || family.GetHelp() == "" {
			t.Errorf("%s: %s has no type or no help", path, name)
		}
	}
	return found
}

// value is the one sample of a family that has the labels.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	var found []float64
	for _, metric := range families[name].GetMetric() {
		matches := func(i int) bool {
			return slices.ContainsFunc(metric.Label, func(l *dto.LabelPair) bool { return l.GetName() == labels[i] && l.GetValue() == labels[i+1] })
		}
		all := true
		for i := 0; i+1 < len(labels); i += 2 {
			all = all && matches(i)
		}
		if all {
			found = append(found, metric.GetCounter().GetValue()+metric.GetGauge().GetValue())
		}
	}
	if len(found) != 1 {
		t.Errorf("%s with %v is there %d times", name, labels, len(found))
		return math.NaN()
	}
	return found[0]
}

func (m *metricsSuite) summary(t *testing.T, query string) kubeletstats.Summary {
	t.Helper()
	var out kubeletstats.Summary
	body, _ := m.get(t, "/stats/summary"+query)
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// of is the statistics of one pod; its container app is the first.
func of(t *testing.T, s kubeletstats.Summary, name string) kubeletstats.PodStats {
	t.Helper()
	i := slices.IndexFunc(s.Pods, func(p kubeletstats.PodStats) bool { return p.PodRef.Name == name })
	if i < 0 || len(s.Pods[i].Containers) != 1 || s.Pods[i].Containers[0].Name != "app" {
		t.Fatalf("the summary has no pod %s with its container", name)
	}
	return s.Pods[i]
}

// within says when what was measured is not what it must be, give or take.
func within(t *testing.T, what string, got, want, below, above float64) {
	t.Helper()
	if !(got >= want-below && got <= want+above) {
		t.Errorf("%s: %.3f, want %.3f (-%.3f +%.3f)", what, got, want, below, above)
	}
}

// everywhere are the three endpoints that tell of a container, by the name of their numbers.
func (m *metricsSuite) everywhere(t *testing.T, name string) (cpu, memory map[string]float64) {
	t.Helper()
	resource, cadvisor, summary := m.scrape(t, "/metrics/resource"), m.scrape(t, "/metrics/cadvisor"), of(t, m.summary(t, ""), name)
	labels := []string{"pod", name, "namespace", "default", "container", "app"}
	cpu = map[string]float64{
		"resource":     value(t, resource, "container_cpu_usage_seconds_total", labels...),
		"resource/pod": value(t, resource, "pod_cpu_usage_seconds_total", "pod", name),
		"cadvisor":     value(t, cadvisor, "container_cpu_usage_seconds_total", append(labels, "cpu", "total")...),
		"cadvisor/user+system": value(t, cadvisor, "container_cpu_user_seconds_total", labels...) +
			value(t, cadvisor, "container_cpu_system_seconds_total", labels...),
		"summary":     float64(*summary.Containers[0].CPU.UsageCoreNanoSeconds) / 1e9,
		"summary/pod": float64(*summary.CPU.UsageCoreNanoSeconds) / 1e9,
	}
	memory = map[string]float64{
		"resource":    value(t, resource, "container_memory_working_set_bytes", labels...),
		"cadvisor":    value(t, cadvisor, "container_memory_working_set_bytes", labels...),
		"summary":     float64(*summary.Containers[0].Memory.WorkingSetBytes),
		"summary/pod": float64(*summary.Memory.WorkingSetBytes),
	}
	return cpu, memory
}

// What the pod has used by the account of its processes, which the kernel keeps apart from that of cgroups, is what is
// said everywhere.
func (m *metricsSuite) cpu(t *testing.T) {
	stat := strings.Fields(m.sh(t, metricsCPU, "cat /proc/1/stat"))
	var used float64
	for _, field := range stat[13:17] { // user and system, of the process and of those it has waited for
		ticks, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		used += float64(ticks) / 100
	}
	if used < 0.5 {
		t.Fatalf("the pod has worked for %.2f s only", used)
	}
	cpu, _ := m.everywhere(t, metricsCPU)
	for where, got := range cpu {
		within(t, where, got, used, 0.05+used/20, 0.6+used/20) // what runc and the execs have used is in the cgroup too
	}
}

func (m *metricsSuite) memory(t *testing.T) {
	_, memory := m.everywhere(t, metricsMemory)
	for where, got := range memory {
		within(t, where, got/mib, 96, 1, 24)
	}
	cadvisor, summary := m.scrape(t, "/metrics/cadvisor"), of(t, m.summary(t, ""), metricsMemory)
	labels := []string{"pod", metricsMemory, "container", "app"}
	within(t, "rss", value(t, cadvisor, "container_memory_rss", labels...)/mib, 32, 1, 16)
	within(t, "rss of the summary", float64(*summary.Containers[0].Memory.RSSBytes)/mib, 32, 1, 16)
	within(t, "usage", value(t, cadvisor, "container_memory_usage_bytes", labels...)/mib, 96, 1, 64)
	within(t, "cache", value(t, cadvisor, "container_memory_cache", labels...)/mib, 64, 1, 16)
	within(t, "limit", value(t, cadvisor, "container_spec_memory_limit_bytes", labels...)/mib, 256, 0, 0)
	within(t, "highest", value(t, cadvisor, "container_memory_max_usage_bytes", labels...)/mib, 96, 1, 160)
	within(t, "available", float64(*summary.Containers[0].Memory.AvailableBytes)/mib, 256-96, 24, 1)
	if faults := *summary.Containers[0].Memory.PageFaults; faults < 96*mib/4096/2 {
		t.Errorf("%d page faults", faults)
	}
}

func (m *metricsSuite) network(t *testing.T) {
	pod := m.until(t, metricsNet, "ready", ready)
	count := func() (rx, tx float64, also kubeletstats.PodStats) {
		cadvisor, summary := m.scrape(t, "/metrics/cadvisor"), of(t, m.summary(t, ""), metricsNet)
		labels := []string{"pod", metricsNet, "interface", "eth0", "container", ""}
		return value(t, cadvisor, "container_network_receive_bytes_total", labels...), value(t, cadvisor, "container_network_transmit_bytes_total", labels...), summary
	}
	rx, tx, _ := count()
	answer, err := http.Get("http://" + pod.Status.PodIP + ":8080/big")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	if n != 8*mib || err != nil {
		t.Fatalf("the pod has sent %d bytes: %v", n, err)
	}
	conn, err := net.Dial("tcp", pod.Status.PodIP+":9000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 8*mib)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	eventually(t, func() error {
		if got := m.sh(t, metricsNet, "wc -c </received"); got != strconv.Itoa(8*mib) {
			return fmt.Errorf("the pod has received %s bytes", got)
		}
		return nil
	})
	eventually(t, func() error { // a measurement serves for a second
		if now, _, _ := count(); now-rx < 8*mib {
			return fmt.Errorf("%.0f bytes received", now-rx)
		}
		return nil
	})
	rx2, tx2, summary := count()
	within(t, "MiB received", (rx2-rx)/mib, 8, 0, 1)
	within(t, "MiB sent", (tx2-tx)/mib, 8, 0, 1)
	within(t, "MiB received, by the summary", float64(*summary.Network.RxBytes)/mib, rx2/mib, 0, 0.1)
	within(t, "MiB sent, by the summary", float64(*summary.Network.TxBytes)/mib, tx2/mib, 0, 0.1)
	if summary.Network.Name != "eth0" || len(summary.Network.Interfaces) != 1 {
		t.Errorf("network: %+v", summary.Network)
	}
}

func (m *metricsSuite) files(t *testing.T) {
	var stats kubeletstats.PodStats
	eventually(t, func() error { // files are counted beside
		stats = of(t, m.summary(t, ""), metricsFiles)
		if c := stats.Containers[0]; c.Rootfs == nil || c.Logs == nil || len(stats.VolumeStats) != 1 {
			return fmt.Errorf("not counted yet: %+v", stats)
		}
		return nil
	})
	within(t, "root", float64(*stats.Containers[0].Rootfs.UsedBytes)/mib, 5, 0, 0.5)
	within(t, "log", float64(*stats.Containers[0].Logs.UsedBytes)/mib, 1, 0, 0.5)
	within(t, "volume", float64(*stats.VolumeStats[0].UsedBytes)/mib, 10, 0, 0.5)
	within(t, "all", float64(*stats.EphemeralStorage.UsedBytes)/mib, 16, 0, 1.5)
	if v := stats.VolumeStats[0]; v.Name != "data" || *v.InodesUsed != 2 || *v.CapacityBytes == 0 || *v.AvailableBytes == 0 {
		t.Errorf("volume: %s, %d inodes, %d of %d bytes", v.Name, *v.InodesUsed, *v.AvailableBytes, *v.CapacityBytes)
	}
	cadvisor := m.scrape(t, "/metrics/cadvisor")
	within(t, "files of the container", value(t, cadvisor, "container_fs_usage_bytes", "pod", metricsFiles, "container", "app")/mib, 6, 0, 1)
	tmpfs := of(t, m.summary(t, ""), metricsMemory)
	if len(tmpfs.VolumeStats) != 1 {
		t.Fatalf("volumes of %s: %+v", metricsMemory, tmpfs.VolumeStats)
	}
	within(t, "tmpfs", float64(*tmpfs.VolumeStats[0].UsedBytes)/mib, 64, 0, 0.1)
}

// A container with a limit of the cpu: how often it was held back, and a rate that is the limit.
func (m *metricsSuite) limited(t *testing.T) {
	labels := []string{"pod", metricsLimited, "container", "app"}
	cadvisor := m.scrape(t, "/metrics/cadvisor")
	within(t, "quota", value(t, cadvisor, "container_spec_cpu_quota", labels...), 10000, 0, 0)
	within(t, "period", value(t, cadvisor, "container_spec_cpu_period", labels...), 100000, 0, 0)
	eventually(t, func() error { // on a busy host it takes a while until the limit is reached for once
		cadvisor = m.scrape(t, "/metrics/cadvisor")
		periods, throttled := value(t, cadvisor, "container_cpu_cfs_periods_total", labels...), value(t, cadvisor, "container_cpu_cfs_throttled_periods_total", labels...)
		held := value(t, cadvisor, "container_cpu_cfs_throttled_seconds_total", labels...)
		if throttled == 0 || throttled > periods || held <= 0 || held > throttled*0.2 {
			return fmt.Errorf("held back for %.2f s in %.0f of %.0f periods", held, throttled, periods)
		}
		return nil
	})
	within(t, "limit", value(t, cadvisor, "container_spec_memory_limit_bytes", labels...)/mib, 64, 0, 0)
	// A rate is that of the counter between two measurements, which say when they were made.
	var stats kubeletstats.PodStats
	eventually(t, func() error {
		before := of(t, m.summary(t, "?only_cpu_and_memory=true"), metricsLimited).Containers[0].CPU
		for stats = of(t, m.summary(t, "?only_cpu_and_memory=true"), metricsLimited); stats.CPU.Time.Time.Equal(before.Time.Time); {
			stats = of(t, m.summary(t, "?only_cpu_and_memory=true"), metricsLimited)
		}
		now := stats.Containers[0].CPU
		if now.UsageNanoCores == nil {
			return fmt.Errorf("no rate yet")
		}
		rate := float64(*now.UsageNanoCores) / 1e9
		if limit := 0.15; rate <= 0 || rate > limit {
			t.Fatalf("a container with 0.1 cpus uses %.3f", rate)
		}
		// The times of a summary are whole seconds, so that one of them can be two.
		used, took := float64(*now.UsageCoreNanoSeconds-*before.UsageCoreNanoSeconds)/1e9, now.Time.Sub(before.Time.Time).Seconds()
		within(t, "rate", rate, used/took, used/took/2+0.01, used/took+0.01)
		return nil
	})
	if stats.Network != nil || stats.VolumeStats != nil || stats.Containers[0].Rootfs != nil {
		t.Error("a summary of cpu and memory only has more")
	}
}

func (m *metricsSuite) podMetrics(t *testing.T, path string) v1beta1.PodMetrics {
	t.Helper()
	body, _ := m.get(t, path)
	var out v1beta1.PodMetrics
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The expositions have the names and labels that dashboards ask for.
func (m *metricsSuite) expositions(t *testing.T) {
	for path, names := range map[string][]string{
		"/metrics": {"kubelet_node_name", "kubelet_running_pods", "kubelet_pod_start_duration_seconds", "kubelet_pod_worker_duration_seconds",
			"kubelet_runtime_operations_total", "apiserver_request_total", "apiserver_request_duration_seconds", "process_cpu_seconds_total",
			"process_resident_memory_bytes", "go_goroutines", "podd_store_syncs_total", "podd_build_info"},
		"/metrics/resource": {"node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "node_swap_usage_bytes", "container_cpu_usage_seconds_total",
			"container_memory_working_set_bytes", "container_start_time_seconds", "container_swap_usage_bytes", "pod_cpu_usage_seconds_total",
			"pod_memory_working_set_bytes", "pod_swap_usage_bytes", "resource_scrape_error"},
		"/metrics/cadvisor": {"container_cpu_usage_seconds_total", "container_cpu_cfs_throttled_periods_total", "container_memory_rss", "container_memory_cache",
			"container_memory_swap", "container_memory_failcnt", "container_memory_failures_total", "container_network_receive_packets_dropped_total",
			"container_network_transmit_errors_total", "container_fs_usage_bytes", "container_fs_limit_bytes", "container_fs_reads_total",
			"container_fs_writes_bytes_total", "container_processes", "container_threads", "container_last_seen", "container_start_time_seconds",
			"container_spec_cpu_shares", "machine_cpu_cores", "machine_memory_bytes", "cadvisor_version_info"},
		"/metrics/probes": {},
	} {
		found := m.scrape(t, path)
		for _, name := range names {
			if len(found[name].GetMetric()) == 0 {
				t.Errorf("%s has no %s", path, name)
			}
		}
	}
	cadvisor := m.scrape(t, "/metrics/cadvisor")
	pod := m.until(t, metricsCPU, "ready", ready)
	id := strings.TrimPrefix(app(pod).ContainerID, "containerd://")
	value(t, cadvisor, "container_memory_working_set_bytes", "name", id, "image", app(pod).Image, "container", "app", "pod", metricsCPU, "namespace", "default")
	within(t, "processes", value(t, cadvisor, "container_processes", "name", id), 2, 0, 1)
	within(t, "start", value(t, cadvisor, "container_start_time_seconds", "name", id), float64(app(pod).State.Running.StartedAt.Unix()), 0.001, 1)
	within(t, "bytes of the machine", value(t, cadvisor, "machine_memory_bytes"), value(t, cadvisor, "container_memory_usage_bytes", "id", "/"), -1, math.Inf(1))
	own := m.scrape(t, "/metrics")
	within(t, "pods", value(t, own, "kubelet_running_pods"), 5, 0, 0)
	within(t, "containers", value(t, own, "kubelet_running_containers", "container_state", "running"), 5, 0, 0)
	if n := own["kubelet_pod_start_duration_seconds"].Metric[0].Histogram.GetSampleCount(); n != 5 {
		t.Errorf("%d pods were started", n)
	}
	zipped, header := m.get(t, "/metrics/cadvisor", "Accept-Encoding", "gzip")
	unzip, err := gzip.NewReader(bytes.NewReader(zipped))
	if header.Get("Content-Encoding") != "gzip" || err != nil {
		t.Fatalf("compressed: %v, %v", header, err)
	}
	if text, err := io.ReadAll(unzip); err != nil || !bytes.Contains(text, []byte("container_last_seen")) {
		t.Errorf("compressed: %v", err)
	}
}

func (m *metricsSuite) kubelet(t *testing.T) {
	for path, want := range map[string]int{"/pods": 5, "/runningpods/": 5} {
		var list v1.PodList
		body, _ := m.get(t, path)
		if err := json.Unmarshal(body, &list); err != nil || len(list.Items) != want || list.Kind != "PodList" || list.Items[0].Spec.Containers[0].Name != "app" {
			t.Errorf("%s: %v, %d pods", path, err, len(list.Items))
		}
	}
	var config struct {
		KubeletConfig map[string]any `json:"kubeletconfig"`
	}
	body, _ := m.get(t, "/configz")
	if err := json.Unmarshal(body, &config); err != nil || config.KubeletConfig["root"] == "" || config.KubeletConfig["restart-backoff"] != "10s" {
		t.Errorf("/configz: %v, %s", err, body)
	}
	summary := m.summary(t, "")
	n := summary.Node
	if n.NodeName == "" || n.CPU.UsageCoreNanoSeconds == nil || *n.Memory.AvailableBytes == 0 || *n.Fs.CapacityBytes == 0 || *n.Rlimit.MaxPID == 0 ||
		len(n.SystemContainers) != 3 || n.Network == nil || time.Since(n.StartTime.Time) < time.Second {
		t.Errorf("node: %+v", n)
	}
}

// metrics.k8s.io, as kubectl top and autoscalers ask for it.
func (m *metricsSuite) top(t *testing.T) {
	const base = "/apis/metrics.k8s.io/v1beta1"
	pod := m.podMetrics(t, base+"/namespaces/default/pods/"+metricsLimited)
	if len(pod.Containers) != 1 || pod.Containers[0].Name != "app" || pod.Window.Duration <= 0 || time.Since(pod.Timestamp.Time) > time.Minute {
		t.Fatalf("pod: %+v", pod)
	}
	within(t, "cpu", pod.Containers[0].Usage.Cpu().AsApproximateFloat64(), 0.1, 0.1, 0.05)
	memory := m.podMetrics(t, base+"/namespaces/default/pods/"+metricsMemory)
	within(t, "memory", memory.Containers[0].Usage.Memory().AsApproximateFloat64()/mib, 96, 1, 24)
	for query, want := range map[string]int{"": 5, "?labelSelector=metrics%3Dlimited": 1, "?labelSelector=metrics%3Dnone": 0, "?fieldSelector=metadata.name%3D" + metricsCPU: 1} {
		var list v1beta1.PodMetricsList
		body, _ := m.get(t, base+"/pods"+query)
		if err := json.Unmarshal(body, &list); err != nil || len(list.Items) != want {
			t.Errorf("pods%s: %v, %d", query, err, len(list.Items))
		}
	}
	var nodes v1beta1.NodeMetricsList
	body, _ := m.get(t, base+"/nodes")
	if err := json.Unmarshal(body, &nodes); err != nil || len(nodes.Items) != 1 || nodes.Items[0].Usage.Cpu().IsZero() || nodes.Items[0].Usage.Memory().IsZero() {
		t.Errorf("nodes: %v, %s", err, body)
	}
	var table metav1.Table
	body, _ = m.get(t, base+"/namespaces/default/pods", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if err := json.Unmarshal(body, &table); err != nil || len(table.Rows) != 5 || len(table.ColumnDefinitions) != 4 || table.ColumnDefinitions[1].Name != "cpu" {
		t.Errorf("table: %v, %s", err, body)
	}
	for _, args := range [][]string{{"top", "pods"}, {"top", "pods", "--containers"}, {"top", "pods", "-l", "metrics=limited"}} {
		out := m.must(t, args...)
		if !strings.Contains(out, metricsLimited) || !strings.Contains(out, "MEMORY(bytes)") {
			t.Errorf("%v: %q", args, out)
		}
	}
	if out := m.must(t, "top", "nodes"); !strings.Contains(out, "CPU(%)") || !strings.Contains(out, nodes.Items[0].Name) {
		t.Errorf("top nodes: %q", out)
	}
}

// The node object is what the host is, and what users write there stays.
func (m *metricsSuite) node(t *testing.T) {
	nodes := m.client.CoreV1().Nodes()
	list, err := nodes.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d nodes, %v", len(list.Items), err)
	}
	n := list.Items[0]
	for _, c := range n.Status.Conditions {
		if want := map[bool]v1.ConditionStatus{true: v1.ConditionTrue, false: v1.ConditionFalse}[c.Type == v1.NodeReady]; c.Status != want {
			t.Errorf("%s is %s: %s", c.Type, c.Status, c.Message)
		}
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	total, _ := strconv.ParseInt(strings.Fields(string(info))[1], 10, 64)
	if n.Status.Capacity.Memory().Value() != total<<10 || n.Status.Capacity.StorageEphemeral().IsZero() || n.Status.Capacity.Pods().Value() != 110 {
		t.Errorf("capacity: %v", n.Status.Capacity)
	}
	if len(n.Status.Conditions) != 4 || n.Labels[v1.LabelHostname] != n.Name || n.Status.NodeInfo.KernelVersion == "" {
		t.Errorf("node: %+v", n)
	}
	if err := nodes.Delete(t.Context(), n.Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete: %v", err)
	}
	if err := nodes.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete all: %v", err)
	}
	eventually(t, func() error {
		now, err := nodes.Get(t.Context(), n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(now.Status.Images, func(i v1.ContainerImage) bool {
			return i.SizeBytes > 0 && slices.ContainsFunc(i.Names, func(name string) bool { return strings.Contains(name, busybox) })
		}) {
			return fmt.Errorf("images: %v", now.Status.Images)
		}
		return nil
	})
	first, err := m.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), n.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		next, err := m.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), n.Name, metav1.GetOptions{})
		if err != nil || !next.Spec.RenewTime.After(first.Spec.RenewTime.Time) {
			return fmt.Errorf("the lease was not renewed: %v", err)
		}
		return nil
	})
}

func (m *metricsSuite) nodeRestart(t *testing.T) {
	nodes := m.client.CoreV1().Nodes()
	var n *v1.Node
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { // podd writes its node meanwhile
		list, err := nodes.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		n = &list.Items[0]
		n.Labels["example.com/mine"], n.Annotations = "1", map[string]string{"example.com/note": "x"}
		delete(n.Labels, v1.LabelOSStable)
		n.Spec.Unschedulable = true
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: "example.com/t", Effect: v1.TaintEffectPreferNoSchedule})
		n, err = nodes.Update(t.Context(), n, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	was := n.Status.Conditions[0].LastTransitionTime
	m.Terminate()
	m.Restart()
	m.WaitReady()
	again, err := nodes.Get(t.Context(), n.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if again.UID != n.UID || again.Labels["example.com/mine"] != "1" || again.Annotations["example.com/note"] != "x" || !again.Spec.Unschedulable ||
		!slices.ContainsFunc(again.Spec.Taints, func(t v1.Taint) bool { return t.Key == "example.com/t" }) {
		t.Errorf("after a restart: %+v", again)
	}
	if again.Labels[v1.LabelOSStable] == "" {
		t.Error("the label of the operating system stays away")
	}
	if now := again.Status.Conditions[0].LastTransitionTime; !now.Equal(&was) {
		t.Errorf("the condition changed at %s, now %s", was, now)
	}
}
