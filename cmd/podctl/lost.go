package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// wire is a transport that notes when podd went away in the middle of an answer. kubectl's commands take the end of a
// watch for the end of what there is to see, and say of other streams what their reader came across.
type wire struct {
	http.RoundTripper
	broken *atomic.Bool
}

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := w.RoundTripper.RoundTrip(req)
	switch {
	case err != nil:
		if (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) && req.Context().Err() == nil {
			w.broken.Store(true)
		}
	case res.StatusCode != http.StatusSwitchingProtocols && res.Body != nil: // that body is written to as well
		res.Body = &answer{ReadCloser: res.Body, ctx: req.Context(), broken: w.broken}
	}
	return res, err
}

// answer is the body of one answer.
type answer struct {
	io.ReadCloser
	ctx    context.Context
	closed atomic.Bool // by who reads it
	broken *atomic.Bool
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !a.closed.Load() && a.ctx.Err() == nil && left(err) {
		a.broken.Store(true)
	}
	return n, err
}

func (a *answer) Close() error {
	a.closed.Store(true)
	return a.ReadCloser.Close()
}

// left tells whether an error of a connection says that the other side has left it, and not that the time was over.
func left(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || brokenWords.MatchString(err.Error())
}

// brokenWords are those of the libraries for a connection that the other side has left.
var brokenWords = regexp.MustCompile(`\bEOF\b|connection reset by peer|broken pipe|closed pipe|client connection lost|GOAWAY`)

// lost tells whether a command could not go on because podd went away, by what it says about it.
func (p *podctl) lost(message string) bool {
	switch {
	case strings.Contains(message, "websocket: close 1006"): // without a word of goodbye
		return true
	case strings.Contains(message, "lost connection to pod"): // the pod may have ended as well
		return p.away()
	}
	return p.client.broken.Load() && (p.client.unreachable() != "" || brokenWords.MatchString(message))
}

// abandoned tells whether cmd, which has ended without an error, was following something that has not ended: podd has.
func (p *podctl) abandoned(cmd *cobra.Command) bool {
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return false
	}
	for _, name := range []string{"watch", "watch-only", "follow"} {
		if on, err := cmd.Flags().GetBool(name); err == nil && on {
			return p.client.broken.Load() || p.away()
		}
	}
	return false
}

// away tells whether podd is not there, by one look. One that is slow to answer is there, and so may one be that cannot be reached
// for another reason.
func (p *podctl) away() bool {
	p.gone.Do(func() { p.isGone = p.look() })
	return p.isGone
}

func (p *podctl) look() (gone bool) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	hc, address, err := p.client.http()
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/livez", nil)
	if err != nil {
		return false
	}
	req.Close = true
	res, err := hc.Do(req)
	if err == nil {
		_ = res.Body.Close()
		return false
	}
	if ctx.Err() != nil {
		return false
	}
	for _, sign := range []error{syscall.ECONNREFUSED, syscall.ENOENT, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, sign) { // the last four: a process that ends may still have let us in
			return true
		}
	}
	return false
}

// goneWords says that podd went away, what that means for the pods, and what to do. Whether it was ended by a teardown cannot
// be known: the connection ends before the first pod does.
func (p *podctl) goneWords() string {
	if !p.away() {
		return "error: the connection to podd ended, and podd answers again. Pods go on meanwhile, unless podd teardown ends them.\n-> Repeat the command."
	}
	return "error: the connection to podd ended: podd does not run any more. Pods go on without it, unless podd teardown ends them.\n" +
		"-> Start it again (`systemctl start podd` or `podd`), then repeat the command. More: podctl doctor."
}

// once leaves out of what a command prints the error that it ends with as well, and what it said already: logs -f
// asks every second whether a container still waits.
type once struct {
	w io.Writer

	mu   sync.Mutex
	said map[string]bool
}

func (o *once) Write(p []byte) (int, error) {
	line := string(bytes.TrimSuffix(p, []byte("\n")))
	if line == io.ErrUnexpectedEOF.Error() || line == io.ErrClosedPipe.Error() || o.again(line) {
		return len(p), nil
	}
	return o.w.Write(p)
}

func (o *once) again(line string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.said[line]
	o.said[line] = true
	return was
}
