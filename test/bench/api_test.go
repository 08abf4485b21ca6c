//go:build host

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"podd/test/harness"
)

// apiBench is a podd whose API is measured, with pods that it does not run: they are for another node.
type apiBench struct {
	*testing.B
	podd   *harness.Podd
	client *kubernetes.Clientset // protobuf
}

func openAPI(tb *testing.B) *apiBench {
	tb.Helper()
	p := harness.Start(tb, harness.WithArgs("--log-level=warn"))
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 100}
	config := p.Config()
	config.Dial = nil
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfigAndClient(config, &http.Client{Transport: transport})
	if err != nil {
		tb.Fatal(err)
	}
	b := &apiBench{tb, p, client}
	tb.Cleanup(func() {
		defer transport.CloseIdleConnections()
		grace := int64(0)
		_ = b.client.CoreV1().Pods("default").DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &grace}, metav1.ListOptions{})
	})
	return b
}

func elsewhere(name string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Spec: v1.PodSpec{NodeName: "elsewhere", Containers: []v1.Container{{
			Name: "app", Image: "localhost/none", Env: []v1.EnvVar{{Name: "A", Value: "b"}},
			VolumeMounts: []v1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}},
		}}, Volumes: []v1.Volume{{Name: "tmp", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}},
	}
}

func (b *apiBench) post(name string) time.Duration {
	begun := time.Now()
	if _, err := b.client.CoreV1().Pods("default").Create(b.Context(), elsewhere(name), metav1.CreateOptions{}); err != nil {
		b.Error(err)
	}
	return time.Since(begun)
}

// BenchmarkAPI measures single requests over the socket, one after the other, and writes that come together.
func BenchmarkAPI(tb *testing.B) {
	const n, together, each = 200, 50, 20
	b := openAPI(tb)
	ctx, pods := tb.Context(), b.client.CoreV1().Pods("default")
	for i := range 20 {
		b.post(fmt.Sprintf("warm-%d", i))
	}
	var posts, written, gets, seen, lists, flood series
	floor := newDisk(tb, b.podd.Dir)
	before := b.syncs()
	for i := range n - 20 {
		posts = append(posts, b.post(fmt.Sprintf("post-%d", i)))
		written = append(written, floor.write())
	}
	alone := b.syncs() - before
	for i := range n {
		begun := time.Now()
		if _, err := pods.Get(ctx, fmt.Sprintf("post-%d", i%(n-20)), metav1.GetOptions{}); err != nil {
			tb.Fatal(err)
		}
		gets = append(gets, time.Since(begun))
	}
	for range 50 {
		begun := time.Now()
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != n {
			tb.Fatalf("%d pods: %v", len(list.Items), err)
		}
		lists = append(lists, time.Since(begun))
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	for range n {
		<-w.ResultChan()
	}
	for i := range n {
		begun := time.Now()
		go b.post(fmt.Sprintf("seen-%d", i))
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1.Pod); ok && p.Name == fmt.Sprintf("seen-%d", i) {
				break
			}
		}
		seen = append(seen, time.Since(begun))
	}
	w.Stop()
	before = b.syncs()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range together {
		wg.Go(func() {
			for i := range each {
				took := b.post(fmt.Sprintf("flood-%d-%d", c, i))
				mu.Lock()
				flood = append(flood, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	crowd := b.syncs() - before
	plainPosts, plainGets, plainSeen := b.plain(n)
	tb.ReportMetric(float64(posts.at(.5))/1e6, "POST-p50-ms")
	tb.ReportMetric(float64(lists.at(.5))/1e6, "LIST-p50-ms")
	report(tb,
		"POST pod, durable         "+posts.fine()+" (target p50 at most 2)",
		"  4 KiB written beside it "+written.fine(),
		"  the same without client-go: the request written, the answer read  "+plainPosts.fine(),
		"GET pod                   "+gets.fine()+" (target 1)",
		"  the same without client-go                                        "+plainGets.fine(),
		"POST pod to watch event   "+seen.fine()+" (target 2)",
		"  the same without client-go, on both sides                         "+plainSeen.fine(),
		"LIST of 200 pods          "+lists.fine()+" (target 15)",
		fmt.Sprintf("POST pod, %d at a time    %s", together, flood.fine()),
		fmt.Sprintf("podd waited for the disk %.2f times per POST alone, %.2f times with %d at a time (target at most 1)",
			alone/float64(n-20), crowd/float64(together*each), together))
}

// plain is how long requests take whose client does nothing but write them to the socket and read the answers.
func (b *apiBench) plain(n int) (posts, gets, seen series) {
	b.Helper()
	pods, err := b.client.CoreV1().Pods("default").List(b.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		b.Fatal(err)
	}
	c := b.dial()
	post := func(name string) {
		c.ask("POST", "", fmt.Sprintf(`{"metadata":{"name":"%s"},"spec":{"nodeName":"elsewhere","containers":[{"name":"app","image":"localhost/none"}]}}`, name))
	}
	for i := range n {
		begun := time.Now()
		post(fmt.Sprintf("plain-%d", i))
		c.answer()
		posts = append(posts, time.Since(begun))
	}
	for i := range n {
		begun := time.Now()
		c.ask("GET", fmt.Sprintf("/plain-%d", i), "")
		c.answer()
		gets = append(gets, time.Since(begun))
	}
	w := b.dial()
	w.ask("GET", "?watch=1&resourceVersion="+pods.ResourceVersion, "")
	events := bufio.NewReader(w.response().Body)
	for i := range n {
		name := fmt.Sprintf("told-%d", i)
		begun := time.Now()
		post(name)
		for told := false; !told; {
			event, err := events.ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			told = strings.Contains(event, `"name":"`+name+`"`)
		}
		seen = append(seen, time.Since(begun))
		c.answer()
	}
	return posts, gets, seen
}

// plainConn is a connection to podd without a client.
type plainConn struct {
	*apiBench

	conn net.Conn
	from *bufio.Reader
}

func (b *apiBench) dial() *plainConn {
	b.Helper()
	conn, err := net.Dial("unix", b.podd.Socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &plainConn{apiBench: b, conn: conn, from: bufio.NewReader(conn)}
}

// ask sends a request about pods.
func (c *plainConn) ask(method, path, body string) {
	c.Helper()
	_, err := fmt.Fprintf(c.conn, "%s /api/v1/namespaces/default/pods%s HTTP/1.1\r\nHost: podd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, len(body), body)
	if err != nil {
		c.Fatal(err)
	}
}

func (c *plainConn) response() *http.Response {
	c.Helper()
	res, err := http.ReadResponse(c.from, nil)
	if err != nil || res.StatusCode/100 != 2 {
		c.Fatalf("%+v, %v", res, err)
	}
	return res
}

// answer reads an answer to its end.
func (c *plainConn) answer() {
	c.Helper()
	res := c.response()
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		c.Fatal(err)
	}
}

// disk is a file beside podd's state, written as that is: what a durable write costs there without podd.
type disk struct {
	testing.TB
	file *os.File
	end  int64
}

func newDisk(tb testing.TB, dir string) *disk {
	tb.Helper()
	f, err := os.CreateTemp(dir, "bench")
	if err == nil {
		_, err = f.Write(make([]byte, 4<<20)) // as podd's file: what is written is there already
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = f.Close(), os.Remove(f.Name()) })
	return &disk{TB: tb, file: f}
}

// write is how long 4 KiB take to be durable.
func (d *disk) write() time.Duration {
	d.Helper()
	page := bytes.Repeat([]byte{1}, 4<<10)
	begun := time.Now()
	_, err := d.file.WriteAt(page, d.end)
	if err == nil {
		err = unix.Fdatasync(int(d.file.Fd()))
	}
	if err != nil {
		d.Fatal(err)
	}
	d.end += int64(len(page))
	return time.Since(begun)
}

// syncs is how often podd has waited for the disk, for the state file.
func (b *apiBench) syncs() float64 {
	b.Helper()
	data, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "podd_store_syncs_total "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no podd_store_syncs_total in /metrics")
	return 0
}

// fine is String with more digits.
func (s series) fine() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e6) }
	return fmt.Sprintf("p50 %s  p99 %s  max %s ms  n=%d", ms(s.at(.5)), ms(s.at(.99)), ms(s.at(1)), len(s))
}

// stampMark begins the stamp in the events of BenchmarkWatchers; the time in nanoseconds follows.
const stampMark = "stamp-"

// BenchmarkWatchers is one pod that changes 50 times a second, before 1,000 watchers.
func BenchmarkWatchers(tb *testing.B) {
	const watchers, updates, perSecond = 1000, 500, 50
	b := openAPI(tb)
	b.post("watched")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.podd.Socket)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: -1}}
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	var wg sync.WaitGroup
	all := make([]series, watchers)
	for i := range watchers {
		body := openWatch(tb, ctx, client)
		wg.Go(func() {
			defer body.Close()
			all[i] = readStamps(tb, body, updates)
		})
	}
	anon := rss(tb, b.podd)
	before := processor(tb, b.podd)
	begun := time.Now()
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for range updates {
		<-tick.C
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"time":"%s%d"}}}`, stampMark, time.Now().UnixNano())
		if _, err := b.client.CoreV1().Pods("default").Patch(ctx, "watched", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
			tb.Fatal(err)
		}
	}
	wrote := time.Since(begun)
	wg.Wait()
	used := processor(tb, b.podd) - before
	var sum series
	missed := 0
	for _, s := range all {
		sum = append(sum, s...)
		missed += updates - len(s)
	}
	tb.ReportMetric(float64(sum.at(.99))/1e6, "event-p99-ms")
	report(tb,
		fmt.Sprintf("%d watchers, %d updates in %s: begin of the update to the event, %s (target p99 at most 250)", watchers, updates, wrote.Round(time.Millisecond), sum.fine()),
		fmt.Sprintf("missed %d (target 0)   RssAnon %.1f MB with the watchers, %.1f MB after   podd used %.2f cores", missed, anon, rss(tb, b.podd),
			used.Seconds()/wrote.Seconds()))
	if missed > 0 {
		tb.Errorf("%d events were missed", missed)
	}
}

// openWatch begins a watch of all pods from now on.
func openWatch(tb testing.TB, ctx context.Context, client *http.Client) io.ReadCloser {
	tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podd/api/v1/namespaces/default/pods?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", nil)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	res, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		tb.Fatalf("watch: %s: %s", res.Status, text)
	}
	return res.Body
}

// readStamps reads events, in the protobuf framing, until all updates came or the watch ends.
func readStamps(tb testing.TB, body io.Reader, updates int) series {
	in := bufio.NewReader(body)
	var took series
	last := int64(0)
	for len(took) < updates {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return took
		}
		event := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(in, event); err != nil {
			return took
		}
		now := time.Now()
		_, rest, found := bytes.Cut(event, []byte(stampMark))
		if !found || len(rest) < 19 {
			continue
		}
		at, err := strconv.ParseInt(string(rest[:19]), 10, 64)
		if err != nil || at <= last {
			tb.Errorf("stamp %.30q after %d", rest, last)
			return took
		}
		last = at
		took = append(took, now.Sub(time.Unix(0, at)))
	}
	return took
}

// BenchmarkMemory is podd with nothing and with 200 pods that run.
func BenchmarkMemory(tb *testing.B) {
	b := open(tb, "--max-pods=250")
	settle := func() { time.Sleep(15 * time.Second) }
	settle()
	none, whole := rss(tb, b.podd), b.status("VmRSS")/1024
	const pods = 200
	for i := range pods {
		b.create(b.pod("bench-" + strconv.Itoa(i)))
		b.await("bench-"+strconv.Itoa(i), running)
	}
	settle()
	many := rss(tb, b.podd)
	list, err := b.client.CoreV1().Pods("default").List(tb.Context(), metav1.ListOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	bytes := 0
	for i := range list.Items {
		bytes += list.Items[i].Size()
	}
	tb.ReportMetric(none, "RssAnon-MB-0-pods")
	tb.ReportMetric(many, "RssAnon-MB-200-pods")
	report(tb,
		fmt.Sprintf("  0 pods  RssAnon %.1f MB (target at most 25)  RSS %.1f MB (target at most 65)", none, whole),
		fmt.Sprintf("200 pods  RssAnon %.1f MB (target at most 60)  RSS %.1f MB; a pod is %.1f KB encoded", many, b.status("VmRSS")/1024, float64(bytes)/pods/1024))
	for i := range pods { // the harness does not wait so long
		b.delete("bench-"+strconv.Itoa(i), 0)
	}
	b.empty(5 * time.Minute)
}

// empty waits until no pod has a directory any more.
func (b *bench) empty(limit time.Duration) {
	b.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		left, err := os.ReadDir(filepath.Join(b.podd.State, "pods"))
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("%d pods are left on the host after %s: %v", len(left), limit, err)
		}
	}
}

// BenchmarkRestart is how soon podd answers after its start, with 1,000 objects.
func BenchmarkRestart(tb *testing.B) {
	b := openAPI(tb)
	var empty, terminated, killed series
	again := func(end func(), s *series) {
		for range 5 {
			end()
			begun := time.Now()
			b.podd.Launch()
			b.answers()
			*s = append(*s, time.Since(begun))
		}
	}
	again(b.podd.Terminate, &empty)
	for i := range 1000 {
		b.post(fmt.Sprintf("object-%d", i))
	}
	again(b.podd.Kill, &killed)
	again(b.podd.Terminate, &terminated)
	list, err := b.client.CoreV1().Pods("default").List(tb.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1000 {
		tb.Fatalf("%d pods are left: %v", len(list.Items), err)
	}
	info, err := os.Stat(filepath.Join(b.podd.Root, "state.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.ReportMetric(float64(killed.at(.5))/1e6, "restart-1000-p50-ms")
	report(tb,
		"exec of podd to the first answer, no pods                   "+empty.fine(),
		"the same with 1,000 pods, after SIGTERM                     "+terminated.fine(),
		"the same with 1,000 pods, after SIGKILL                     "+killed.fine()+" (target at most 200)",
		fmt.Sprintf("the state file has %.1f MB", float64(info.Size())/1e6))
}

// answers waits until the API lists pods.
func (b *apiBench) answers() {
	b.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.podd.Socket)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for limit := time.Now().Add(30 * time.Second); ; {
		res, err := client.Get("http://podd/api/v1/namespaces/default/pods?limit=1")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(limit) {
			b.Fatalf("podd does not answer: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkBinaries prints their sizes as they are built by make.
func BenchmarkBinaries(tb *testing.B) {
	dir := harness.Built(tb)
	var lines []string
	for _, name := range []string{"podd", "podctl"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			tb.Fatal(err)
		}
		tb.ReportMetric(float64(info.Size())/1e6, name+"-MB")
		lines = append(lines, fmt.Sprintf("%-7s %.1f MB", name, float64(info.Size())/1e6))
	}
	report(tb, lines...)
}

// BenchmarkPodctl is how long a command takes as the shell sees it: the whole process, with ten pods to show.
func BenchmarkPodctl(tb *testing.B) {
	b := openAPI(tb)
	for i := range 10 {
		b.post(fmt.Sprintf("shown-%d", i))
	}
	var lines []string
	for _, c := range []struct{ args, target string }{{"get pods", " (target p50 at most 60)"}, {"get pods -o json", ""}, {"version --client", ""}} {
		var all series
		for range 30 {
			begun := time.Now()
			b.podd.Must(strings.Fields(c.args)...)
			all = append(all, time.Since(begun))
		}
		lines = append(lines, fmt.Sprintf("podctl %-18s %s%s", c.args, all.fine(), c.target))
	}
	report(tb, lines...)
}

// rss is the RssAnon of podd in MB.
func rss(tb testing.TB, p *harness.Podd) float64 {
	tb.Helper()
	return (&bench{TB: tb, podd: p}).status("RssAnon") / 1024
}

func processor(tb testing.TB, p *harness.Podd) time.Duration {
	tb.Helper()
	return (&bench{TB: tb, podd: p}).cpu()
}
