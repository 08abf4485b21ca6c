package containers

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"

	"podd/runtime/handler"
)

// DefaultHandler is the name of the handler that every host has.
const DefaultHandler = "runc"

// handler is what a handler stands for. All but shims are run by runc's shim, which takes any with runc's command line.
func (c *Client) handler(name string) (handler.Handler, error) {
	if name == "" || name == DefaultHandler {
		return handler.Handler{Path: c.opts.Runc}, nil
	}
	h, ok := c.opts.Handlers[name]
	if !ok {
		return h, fmt.Errorf("no runtime for %q is configured", name)
	}
	return h, nil
}

// HasHandler is nil when containers can be made with a handler, else the reason why not. What a containerd that is not
// podd's finds is not known.
func (c *Client) HasHandler(name string) error {
	h, err := c.handler(name)
	if err != nil || h == (handler.Handler{}) || h.Path == "" && c.opts.ShimPath == "" {
		return err
	}
	if _, err := h.Find(c.opts.ShimPath); err != nil {
		return fmt.Errorf("runtime for %q: %w", name, err)
	}
	return nil
}

// IsShim tells whether the containers of a handler are made by another shim than runc's. It may give a pod a kernel of its
// own: it takes the network as it is when the sandbox starts, and makes members in a sandbox that runs.
func (c *Client) IsShim(name string) bool {
	h, err := c.handler(name)
	return err == nil && h.Shim()
}

// runtimeInfo is what containerd is told of a handler. The pipes of a container are its root's, so that it can open them by
// /dev/stdout.
func (c *Client) runtimeInfo(name string, root uint32) (info containers.RuntimeInfo, err error) {
	h, err := c.handler(name)
	if err != nil {
		return info, err
	}
	if !h.Shim() {
		info.Name = runtimeName
		info.Options, err = typeurl.MarshalAny(&options.Options{BinaryName: h.Path, Root: c.opts.RuncRoot, IoUid: root, IoGid: root})
		return info, err
	}
	info.Name = h.Type
	if h.Path != "" || c.opts.ShimPath != "" { // containerd takes a path for a name, and looks itself only where it was started
		if info.Name, err = h.Find(c.opts.ShimPath); err != nil {
			return info, fmt.Errorf("runtime for %q: %w", name, err)
		}
	}
	if h.Config != "" {
		info.Options, err = typeurl.MarshalAny(&runtimeoptions.Options{TypeUrl: h.Type + ".options", ConfigPath: h.Config})
	}
	return info, err
}

// isRuntime says whether p is an OCI runtime that podd's containers are made with. One that is a script has its path after
// that of its shell.
func (c *Client) isRuntime(p process) bool {
	if filepath.Base(p.argv[0]) == DefaultHandler {
		return true
	}
	for _, h := range c.opts.Handlers {
		for _, a := range p.argv[:min(2, len(p.argv))] {
			if a == h.Path && !h.Shim() {
				return true
			}
		}
	}
	return false
}
