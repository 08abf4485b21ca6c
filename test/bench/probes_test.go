//go:build host

package bench

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"podd/test/ociimage"
)

const webImage = "localhost/web:bench"

var probed = flag.Int("probed", 100, "how many pods are probed in BenchmarkProbes")

// BenchmarkProbes is what podd uses while it asks the http probes of 100 pods every second, each in its own pod's network.
// What serves the answers is not podd and does not count.
func BenchmarkProbes(tb *testing.B) {
	b := open(tb)
	box, err := ociimage.Busybox(webImage, "/bin/busybox")
	if err != nil {
		tb.Fatal(err)
	}
	b.podd.Load(box)
	for range *probed {
		pod := b.pod(b.name())
		c := &pod.Spec.Containers[0]
		pod.Spec.Volumes, c.VolumeMounts = nil, nil
		c.Image, c.Command = webImage, []string{"sh", "-c", "mkdir /www; echo ok >/www/healthz; exec httpd -f -p 8080 -h /www"}
		c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 10, ProbeHandler: v1.ProbeHandler{
			HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt(8080)}}}
		b.create(pod)
		b.await(pod.Name, ready)
	}
	for settle := time.Now(); time.Since(settle) < 10*time.Second; {
		time.Sleep(time.Second)
	}
	before, cpu := b.asked(), b.cpu()
	time.Sleep(idleTime)
	used := b.cpu() - cpu
	asked := b.asked() - before
	percent := 100 * used.Seconds() / idleTime.Seconds()
	bare := b.bare()
	tb.ReportMetric(percent, "cpu-%")
	tb.ReportMetric(b.status("RssAnon")/1024, "RssAnon-MB")
	report(tb, fmt.Sprintf("%d pods asked every second   %.2f %% of a core over %s (target at most 5 with 100)   %.0f us each of %d   RssAnon %.1f MB", *probed,
		percent, idleTime, float64(used.Microseconds())/float64(max(asked, 1)), asked, b.status("RssAnon")/1024),
		fmt.Sprintf("the system calls of such a question alone, one after the other   %.0f us each", float64(bare.Microseconds())))
	for i := range b.n { // the harness does not wait so long
		b.delete("bench-"+strconv.Itoa(i+1), 0)
	}
	b.empty(5 * time.Minute)
}

// asked is how many probes have been answered.
func (b *bench) asked() (n int) {
	b.Helper()
	for line := range strings.Lines(b.podd.Must("get", "--raw", "/metrics/probes")) {
		if strings.HasPrefix(line, "prober_probe_total{") {
			one, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			if err != nil {
				b.Fatal(err)
			}
			n += one
		}
	}
	return n
}

// bare is the processor time of one question to each pod, by the system calls that it needs and nothing else: what the kernel
// takes for it, on the way to the pod and back.
func (b *bench) bare() time.Duration {
	b.Helper()
	pods, err := b.client.CoreV1().Pods("default").List(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var usage [2]unix.Rusage
	used := make(chan error)
	go func() {
		runtime.LockOSThread() // and ends with it
		err := unix.Getrusage(unix.RUSAGE_THREAD, &usage[0])
		for _, pod := range pods.Items {
			err = errors.Join(err, askBare(netip.MustParseAddr(pod.Status.PodIP)))
		}
		used <- errors.Join(err, unix.Getrusage(unix.RUSAGE_THREAD, &usage[1]))
	}()
	if err := <-used; err != nil {
		b.Fatal(err)
	}
	total := func(u unix.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
	return (total(usage[1]) - total(usage[0])) / time.Duration(len(pods.Items))
}

func askBare(to netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 8080, Addr: to.As4()}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	n, err := unix.Read(fd, make([]byte, 4<<10))
	if err == nil && n == 0 {
		err = errors.New("no answer")
	}
	return err
}

func ready(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}
