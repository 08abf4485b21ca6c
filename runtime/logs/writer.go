package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Writer asks the podd-logd of a socket. Every call makes a connection of its own, so a podd-logd that was started anew
// needs no care.
type Writer struct{ socket string }

// Dial names the socket that is asked; nothing is connected yet.
func Dial(socket string) *Writer { return &Writer{socket} }

// Hello asks who serves. An error means that nobody does.
func (w *Writer) Hello(ctx context.Context) (Hello, error) {
	r, err := w.ask(ctx, request{Op: "hello"})
	return r.Hello, err
}

// Ensure makes the FIFOs of t and has them read and written to its log file. When it returns, a shim that opens them does
// not block. It may be called at any time again.
func (w *Writer) Ensure(ctx context.Context, t Target) error {
	_, err := w.ask(ctx, request{Op: "ensure", Target: &t})
	return err
}

// Drain returns when nobody has the FIFOs of a container open for writing and all they held is in the log file. It is nil
// for a container that is not known. ctx bounds the wait: a process that a container left behind may hold a FIFO open.
func (w *Writer) Drain(ctx context.Context, id string) error {
	for {
		r, err := w.ask(ctx, request{Op: "drain", ID: id})
		if err != nil || !r.Pending {
			return err
		}
	}
}

// Remove ends the writing for a container and removes its FIFOs. What they hold is written first; it waits for writers
// that are still there no longer than two seconds. It is nil when the container is not known.
func (w *Writer) Remove(ctx context.Context, id string) error {
	_, err := w.ask(ctx, request{Op: "remove", ID: id})
	return err
}

// List names the containers that are written for, in no order.
func (w *Writer) List(ctx context.Context) ([]string, error) {
	r, err := w.ask(ctx, request{Op: "list"})
	return r.IDs, err
}

// Losses is what could not be written since it was asked last.
func (w *Writer) Losses(ctx context.Context) ([]Loss, error) {
	r, err := w.ask(ctx, request{Op: "losses"})
	return r.Losses, err
}

// Shutdown has podd-logd write what it has read, and returns when it has exited. What comes later waits in the FIFOs for
// the next podd-logd. It is nil when none runs.
func (w *Writer) Shutdown(ctx context.Context) error {
	_, err := w.ask(ctx, request{Op: "shutdown"})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

func (w *Writer) ask(ctx context.Context, q request) (r reply, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask podd-logd: %s: %w", q.Op, err)
		}
	}()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", w.socket)
	if err != nil {
		return r, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	q.Protocol = Protocol
	b, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return r, cause(ctx, err)
	}
	in := bufio.NewReaderSize(conn, 4096)
	b, err = in.ReadBytes('\n')
	if err != nil {
		return r, cause(ctx, err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	if q.Op == "shutdown" { // the connection ends with the process
		if _, err := io.Copy(io.Discard, in); err != nil && ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
	}
	return r, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
