package api

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
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

// TestAbortedAnswer: an answer that a handler gives up does not look complete to the client.
func TestAbortedAnswer(t *testing.T) {
	server := httptest.NewServer(withRecovery(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), slog.New(slog.DiscardHandler)))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "half" {
		t.Errorf("got %q, %v", got, err)
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
