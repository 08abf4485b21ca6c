package main

import (
	"context"
	"io"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"

	"podd/runtime"
	"podd/runtime/containers"
)

func (a *attendant) Attach(ctx context.Context, pod *v1.Pod, container string, in io.Reader, out, errs io.Writer,
	resize <-chan remotecommand.TerminalSize) error {
	sizes, stop := sizesOf(ctx, resize)
	defer stop()
	return a.runtime.Attach(ctx, pod, container, runtime.Attach{Stdin: in, Stdout: out, Stderr: errs, Resize: sizes})
}

// sizesOf hands on sizes until from is closed, ctx is done or stop is called, which waits for the end of that.
func sizesOf(ctx context.Context, from <-chan remotecommand.TerminalSize) (to <-chan containers.Size, stop func()) {
	if from == nil {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	sizes, done := make(chan containers.Size), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s, ok := <-from:
				if !ok {
					return
				}
				select {
				case sizes <- containers.Size{Width: s.Width, Height: s.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes, func() { cancel(); <-done }
}
