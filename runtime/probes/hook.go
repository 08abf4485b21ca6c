package probes

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Hook runs a hook to its end. There is no time limit but ctx. The error is ctx's when that has ended; else it is in
// upstream's words (pkg/kubelet/lifecycle/handlers.go), which are for the status: they may tell what an event must not. errors.Is finds the cause.
// insecure is called when a hook that asks for HTTPS was answered over HTTP, with the words for an event.
func (p *Prober) Hook(ctx context.Context, h *v1.LifecycleHandler, t Target, insecure func(message string)) error {
	var err error
	failed := ""
	switch {
	case h.Exec != nil:
		var out output
		err = run(ctx, h.Exec.Command, t, &out)
		failed = fmt.Sprintf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %v, message: %q",
			h.Exec.Command, t.Container.Name, t.Pod, err, out.String())
	case h.HTTPGet != nil:
		err = p.get(ctx, h.HTTPGet, t, insecure)
		failed = fmt.Sprintf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %v",
			h.HTTPGet.Path, t.Container.Name, t.Pod, err)
	case h.Sleep != nil:
		err = sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	default: // a tcpSocket, which upstream accepts and cannot run
		err = fmt.Errorf("invalid handler: %v", h)
		failed = fmt.Sprintf("Cannot run handler: %v", err)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return &hookError{failed, err}
	}
}

// hookError is how a hook failed, and why.
type hookError struct {
	words string
	cause error
}

func (e *hookError) Error() string { return e.words }
func (e *hookError) Unwrap() error { return e.cause }

// run runs a command, which has to exit with 0.
func run(ctx context.Context, command []string, t Target, out *output) error {
	code, err := t.Run(ctx, command, &out.stdout, &out.stderr, nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), code, out.stderr.kept)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// get asks for a page; any answer will do. One that comes over HTTP to a question over HTTPS is asked for over HTTP.
func (p *Prober) get(ctx context.Context, a *v1.HTTPGetAction, t Target, insecure func(string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := request(ctx, a, t, "lifecycle")
	if err != nil {
		return err
	}
	err = p.fetch(req)
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return err
	}
	plain := req.Clone(req.Context())
	plain.URL.Scheme = "http"
	plain.Header.Del("Authorization")
	if p.fetch(plain) != nil {
		return err
	}
	insecure(fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
	return nil
}

// fetch reads of the body what is not too long.
func (p *Prober) fetch(req *http.Request) error {
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.ContentLength <= maxOutput {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxOutput))
	}
	return nil
}
