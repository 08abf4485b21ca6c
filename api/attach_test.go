package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
)

// Attach echoes what it is told, and ends when the client says no more.
func (p *pods) Attach(ctx context.Context, pod *v1.Pod, container string, in io.Reader, out, errOut io.Writer,
	resize <-chan remotecommand.TerminalSize) error {
	if resize != nil {
		for size := range resize {
			p.mu.Lock()
			p.sizes = append(p.sizes, size)
			p.mu.Unlock()
			break
		}
	}
	if errOut != nil {
		if _, err := fmt.Fprintf(errOut, "attached to %s of %s\n", container, pod.Name); err != nil {
			return err
		}
	}
	if in == nil {
		if container == "floods" {
			for {
				if _, err := out.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
					return err
				}
			}
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	_, err := io.Copy(out, in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
