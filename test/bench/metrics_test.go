//go:build host

package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// BenchmarkScrape is what a scrape costs with 50 pods: each time everything is measured anew, since one measurement serves
// for a second only.
func BenchmarkScrape(tb *testing.B) {
	const pods, scrapes = 50, 15
	b := open(tb)
	for range pods {
		b.create(b.pod(b.name()))
	}
	for i := range pods {
		b.await("bench-"+strconv.Itoa(i+1), running)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", b.podd.Socket)
		}}}
	defer client.CloseIdleConnections()
	begin := b.status("RssAnon")
	var lines []string
	for _, path := range []string{"/metrics/cadvisor", "/metrics/resource", "/stats/summary", "/metrics", "/apis/metrics.k8s.io/v1beta1/pods"} {
		var took series
		size := int64(0)
		cpu := b.cpu()
		for i := range scrapes + 1 {
			time.Sleep(1100 * time.Millisecond)
			begun := time.Now()
			answer, err := client.Get("http://podd" + path)
			if err != nil {
				tb.Fatal(err)
			}
			size, err = io.Copy(io.Discard, answer.Body)
			if err != nil || answer.StatusCode != http.StatusOK {
				tb.Fatalf("%s: %s, %v", path, answer.Status, err)
			}
			_ = answer.Body.Close()
			if i > 0 { // the first one has to count files, or to wait for a rate
				took = append(took, time.Since(begun))
			}
		}
		used := (b.cpu() - cpu) / (scrapes + 1)
		if path == "/metrics/cadvisor" {
			tb.ReportMetric(float64(took.at(.5))/1e6, "cadvisor-p50-ms")
		}
		lines = append(lines, fmt.Sprintf("%-36s %s  %.0f kB  %.1f ms of cpu each", path, took.fine(), float64(size)/1e3, float64(used)/1e6))
	}
	lines = append(lines, fmt.Sprintf("%d pods; podd's RssAnon %.1f MB before, %.1f MB after", pods, begin/1024, b.status("RssAnon")/1024))
	report(tb, lines...)
}
