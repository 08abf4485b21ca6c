package api

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// TestPackedPage: a small page that unpacks to a large one fails as a large one does; others are unpacked.
func TestPackedPage(t *testing.T) {
	pack := map[string]func(w io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser {
			z, _ := flate.NewWriter(w, flate.BestCompression)
			return z
		},
	}
	for encoding, packer := range pack {
		for text, tooLong := range map[string]bool{"<p>a</p>": false, strings.Repeat("a", 2*maxPage): true} {
			var packed bytes.Buffer
			z := packer(&packed)
			_, _ = io.WriteString(z, text)
			_ = z.Close()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				w.Header().Set("Content-Encoding", encoding)
				_, _ = w.Write(packed.Bytes())
			}))
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				req, err := http.NewRequest(method, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := podTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				switch {
				case method == http.MethodHead:
				case tooLong && (err == nil || len(got) > maxPage):
					t.Errorf("%s: got %d bytes, %v", encoding, len(got), err)
				case !tooLong && (err != nil || string(got) != text):
					t.Errorf("%s: got %q, %v", encoding, got, err)
				}
				if is := resp.Header.Get("Content-Encoding"); is != "" {
					t.Errorf("%s %s: it says that it is %s", method, encoding, is)
				}
			}
			server.Close()
		}
	}
}

// TestAbortedAnswer: an answer that a handler gives up, or panics in, does not look complete to the client. Before it has
// begun there is one that says so.
func TestAbortedAnswer(t *testing.T) {
	for _, cause := range []any{http.ErrAbortHandler, "a bug"} {
		server := httptest.NewServer(withRecovery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/half" {
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
			}
			panic(cause)
		}), slog.New(slog.DiscardHandler)))
		defer server.Close()
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		resp, err := http.Get(server.URL + "/half")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "half" {
			t.Errorf("%v: got %q, %v", cause, got, err)
		}
		resp, err = http.Get(server.URL + "/nothing")
		if cause == http.ErrAbortHandler {
			if err == nil {
				resp.Body.Close()
				t.Errorf("%v: got %s", cause, resp.Status)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(got), "panic") {
			t.Errorf("%v: got %s %q, %v", cause, resp.Status, got, err)
		}
	}
}

// TestBrokenPod: a pod that breaks off in the middle of an answer makes the proxy write nothing, and the client sees it.
func TestBrokenPod(t *testing.T) {
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer back.Close()
	to, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport, proxy.ErrorLog, proxy.FlushInterval = podTransport, log.New(&said, "", 0), -1
	front := httptest.NewServer(withRecovery(proxy, slog.New(slog.DiscardHandler)))
	resp, err := http.Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "half" {
		t.Errorf("got %q, %v", got, err)
	}
	front.Close() // the handler has ended
	if said.Len() > 0 {
		t.Errorf("the proxy says: %s", &said)
	}
}

// TestQueueOfSmallPieces: what waits for a client is bounded by what it takes in memory.
func TestQueueOfSmallPieces(t *testing.T) {
	q := newQueue(10 * (1 + pieceCost))
	w := q.to(io.Discard)
	for i := range 11 {
		if _, err := w.Write([]byte{'x'}); (err != nil) != (i == 10) {
			t.Fatalf("piece %d: %v", i, err)
		}
	}
}
