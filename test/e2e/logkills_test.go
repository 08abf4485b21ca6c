//go:build host

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// TestLogsOverKills: a container writes 10,000 lines a second and its log is rotated about every second, while podd is killed
// 20 times at points that chance chooses. Followers that connect again, from the second of the last line they have got, see
// each line once and in order, by HTTP and by WebSocket.
func TestLogsOverKills(t *testing.T) {
	const kills, size, files = 20, 1 << 20, 60
	s := start(t, harness.WithArgs("--container-log-max-size="+strconv.Itoa(size), "--container-log-max-files="+strconv.Itoa(files)))
	proxiesLoad(t, s)
	dir := t.TempDir()
	p := hostDir(pod{Name: "lines", Container: "image: " + serverImage + "\ncommand: [/server, lines, /host/stop]"}, dir)
	pod := s.running(t, p)
	gate := proxiesGate(t, s)
	followers := map[string]*logFollower{
		"http":      {open: func(ctx context.Context, since time.Time) (io.ReadCloser, error) { return logHTTP(ctx, s, since) }},
		"websocket": {open: func(ctx context.Context, since time.Time) (io.ReadCloser, error) { return logSocket(ctx, gate, since) }},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	ended := make(chan error, len(followers))
	for name, f := range followers {
		go func() {
			err := f.run(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			ended <- err
		}()
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	for i := range kills {
		further := 200 + chance.Int64N(4000)
		for name, f := range followers {
			if err := f.reach(ctx, f.last.Load()+further); err != nil {
				t.Fatalf("kill %d: %s: %v", i, name, err)
			}
		}
		s.Restart() // by SIGKILL
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range followers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for name, f := range followers {
		t.Logf("%s: %d lines over %d connections, of which %d broke within a line", name, f.last.Load(), f.connections, f.torn)
		if f.connections < kills/2 {
			t.Errorf("%s: connected only %d times: the kills were not noticed", name, f.connections)
		}
	}
	rotated, _ := filepath.Glob(s.logFile(pod, 0) + ".*")
	if len(rotated) < 5 {
		t.Errorf("the log was rotated %d times only", len(rotated))
	}
	if got := s.until(t, "lines", "there", ready); app(got).RestartCount != 0 {
		t.Errorf("the writer was restarted")
	}
}

// logFollower follows the log of numbered lines, and again when it is cut off.
type logFollower struct {
	open              func(ctx context.Context, since time.Time) (io.ReadCloser, error)
	last              atomic.Int64 // number of the last line
	at                time.Time    // when that was written
	connections, torn int
}

// reach waits for a line.
func (f *logFollower) reach(ctx context.Context, n int64) error {
	for f.last.Load() < n {
		select {
		case <-ctx.Done():
			return fmt.Errorf("line %d of %d: %w", f.last.Load(), n, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// run returns when the last line has come, or when one is missing, comes again or comes too early.
func (f *logFollower) run(ctx context.Context) error {
	for ctx.Err() == nil {
		in, err := f.open(ctx, f.at)
		if err != nil {
			select { // podd is being started
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		f.connections++
		end, err := f.read(in)
		_ = in.Close()
		if end || err != nil {
			return err
		}
	}
	return fmt.Errorf("line %d: %w", f.last.Load(), ctx.Err())
}

// read reads one connection. Its first line may have been seen before, but none after it may be missing.
func (f *logFollower) read(r io.Reader) (end bool, err error) {
	in := bufio.NewReader(r)
	before := int64(-1)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if line != "" {
				f.torn++
			}
			return false, nil
		}
		stamp, text, _ := strings.Cut(line, " ")
		number, rest, _ := strings.Cut(text, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		at, terr := time.Parse(time.RFC3339Nano, stamp)
		last := f.last.Load()
		switch {
		case err != nil || terr != nil:
			return false, fmt.Errorf("after line %d comes %q", last, line)
		case before >= 0 && n != before+1:
			return false, fmt.Errorf("on one connection, after line %d comes %d", before, n)
		case n > last+1:
			return false, fmt.Errorf("after line %d, on a new connection, comes %d", last, n)
		}
		before = n
		if n == last+1 {
			f.at = at
			f.last.Store(n)
		}
		if rest == "end\n" {
			return true, nil
		}
	}
}

func logHTTP(ctx context.Context, s *suite, since time.Time) (io.ReadCloser, error) {
	opts := &v1.PodLogOptions{Follow: true, Timestamps: true}
	if !since.IsZero() {
		opts.SinceTime = &metav1.Time{Time: since}
	}
	return s.client.CoreV1().Pods("default").GetLogs("lines", opts).Stream(ctx)
}

func logSocket(ctx context.Context, g *proxyGate, since time.Time) (io.ReadCloser, error) {
	query := url.Values{"follow": {"true"}, "timestamps": {"true"}}
	if !since.IsZero() {
		query.Set("sinceTime", since.UTC().Format(time.RFC3339Nano)) // not every client rounds it to seconds
	}
	return openLogSocket(ctx, g, "lines", "binary.k8s.io", query)
}

// socketLog is a log that comes in the messages of a WebSocket.
type socketLog struct {
	*gwebsocket.Conn
	message io.Reader
}

func openLogSocket(ctx context.Context, g *proxyGate, pod, protocol string, query url.Values) (*socketLog, error) {
	u := g.url("/api/v1/namespaces/default/pods/" + pod + "/log?" + query.Encode())
	u.Scheme = "ws"
	ws, r, err := (&gwebsocket.Dialer{Subprotocols: []string{protocol}}).DialContext(ctx, u.String(), nil)
	if err != nil {
		if r != nil {
			body, _ := io.ReadAll(r.Body)
			err = fmt.Errorf("%w: %s", err, body)
		}
		return nil, err
	}
	if ws.Subprotocol() != protocol {
		return nil, errors.Join(fmt.Errorf("the protocol is %q", ws.Subprotocol()), ws.Close())
	}
	return &socketLog{Conn: ws}, nil
}

func (l *socketLog) Read(b []byte) (int, error) {
	for {
		if l.message == nil {
			_, message, err := l.NextReader()
			if err != nil {
				return 0, err
			}
			l.message = message
		}
		n, err := l.message.Read(b)
		if errors.Is(err, io.EOF) {
			l.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// TestLogSockets: logs by WebSocket are the bytes of the log, as they are or in base64; one of the two streams can be asked
// for; and who follows a silent log and goes
// leaves nothing behind.
func TestLogSockets(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.apply(t, pod{Name: "talk", Script: "echo one; echo two; echo three"}, pod{Name: "silent", Script: "echo hello; sleep 0.2; echo error >&2; " + sleepScript})
	s.until(t, "talk", "ended", phase(v1.PodSucceeded))
	s.until(t, "silent", "ready", ready)
	eventually(t, func() error {
		if got := s.must(t, "logs", "silent"); got != "hello\nerror\n" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	gate := proxiesGate(t, s)
	for protocol, decode := range map[string]func(string) string{
		"binary.k8s.io": func(s string) string { return s },
		"base64.binary.k8s.io": func(s string) string {
			data, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				t.Error(err)
			}
			return string(data)
		},
	} {
		in, err := openLogSocket(t.Context(), gate, "talk", protocol, url.Values{"container": {"app"}})
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		var closed *gwebsocket.CloseError
		if !errors.As(err, &closed) || decode(string(data)) != "one\ntwo\nthree\n" {
			t.Errorf("%s: %q, %v", protocol, data, err)
		}
		_ = in.Close()
	}
	if _, err := openLogSocket(t.Context(), gate, "talk", "binary.k8s.io", url.Values{"container": {"nope"}}); err == nil ||
		!strings.Contains(err.Error(), "container nope is not valid for pod talk") {
		t.Errorf("a container that is not there: %v", err)
	}
	for stream, want := range map[string]string{"Stdout": "hello\n", "Stderr": "error\n", "All": "hello\nerror\n"} {
		got, err := s.client.CoreV1().Pods("default").GetLogs("silent", &v1.PodLogOptions{Stream: &stream}).DoRaw(t.Context())
		if err != nil || string(got) != want {
			t.Errorf("stream %s: %q, %v", stream, got, err)
		}
	}
	for range 20 {
		in, err := openLogSocket(t.Context(), gate, "silent", "binary.k8s.io", url.Values{"follow": {"true"}})
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(in).ReadString('\n'); err != nil || line != "hello\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_ = in.Close()
	}
	eventually(t, func() error { // while the container goes on and says nothing
		if n := followers(t, s); n > 0 {
			return fmt.Errorf("%d followers are still there", n)
		}
		return nil
	})
}

// followers counts the goroutines of podd that read logs.
func followers(t *testing.T, s *suite) int {
	t.Helper()
	all, err := s.client.CoreV1().RESTClient().Get().AbsPath("/debug/podd/goroutines").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(all), "podd/runtime/logs.Read(")
}
