package containers

import (
	"fmt"
	"os"
	"path/filepath"
)

// DefaultHandler is the name of the handler that every host has.
const DefaultHandler = "runc"

// runtime is the binary of the OCI runtime that a handler stands for, "" for containerd's own choice. All of them are run by
// runc's shim, which takes any with runc's command line.
func (c *Client) runtime(handler string) (string, error) {
	if handler == "" || handler == DefaultHandler {
		return c.opts.Runc, nil
	}
	binary, ok := c.opts.Runtimes[handler]
	if !ok {
		return "", fmt.Errorf("no runtime for %q is configured", handler)
	}
	return binary, nil
}

// HasHandler is nil when containers can be made with a handler, else the reason why not.
func (c *Client) HasHandler(handler string) error {
	binary, err := c.runtime(handler)
	if err != nil || binary == "" {
		return err
	}
	info, err := os.Stat(binary)
	switch {
	case err != nil:
		return fmt.Errorf("runtime for %q: %w", handler, err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("runtime for %q: %s: is no program", handler, binary)
	}
	return nil
}

// isRuntime says whether p is an OCI runtime that podd's containers are made with. One that is a script has its path after
// that of its shell.
func (c *Client) isRuntime(p process) bool {
	if filepath.Base(p.argv[0]) == DefaultHandler {
		return true
	}
	for _, binary := range c.opts.Runtimes {
		for _, a := range p.argv[:min(2, len(p.argv))] {
			if a == binary {
				return true
			}
		}
	}
	return false
}
