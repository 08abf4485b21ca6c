package main

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLogsOfNothing: of a container that has no log it is said whether one may come, and only then is it waited for.
func TestLogsOfNothing(t *testing.T) {
	const (
		node    = `"spec":{"nodeName":"host","containers":[{"name":"app"}]}`
		gated   = `"spec":{"containers":[{"name":"app"}]},"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}`
		waits   = node + `,"status":{"phase":"Pending"}`
		refused = node + `,"status":{"phase":"Failed","reason":"SysctlForbidden"}`
		evicted = node + `,"status":{"phase":"Failed","reason":"Evicted","containerStatuses":[{"name":"app","state":{"waiting":{"reason":"ContainerCreating"}}}]}`
		done    = node + `,"status":{"phase":"Succeeded"}`
		ran     = node + `,"status":{"phase":"Succeeded","containerStatuses":[{"name":"app","state":{"terminated":{"startedAt":"2026-01-01T00:00:00Z"}}}]}`

		creating = `container "app" in pod "web" is waiting to start: ContainerCreating`
		noNode   = `container "app" in pod "web" is waiting to start: the pod has no node yet (Pending, SchedulingGated)`
		waiting  = "\n-> What it waits for: podctl why web\n"
		never    = "\n-> Why it did not: podctl why web\n"
	)
	for name, c := range map[string]struct {
		args string
		pods []string // as they are each time that one is asked for; the last one stays. kubectl asks once by itself.
		log  string   // empty: the container is waiting to start
		err  string
	}{
		"refused":             {"logs web", []string{refused}, "", `error: pod "web" has failed (SysctlForbidden), and container "app" never ran` + never},
		"refused, followed":   {"logs -f web", []string{refused}, "", `error: pod "web" has failed (SysctlForbidden), and container "app" never ran` + never},
		"evicted":             {"logs -f web", []string{evicted}, "", `error: pod "web" has failed (Evicted), and container "app" never ran` + never},
		"succeeded":           {"logs -f web -c app", []string{done}, "", `error: pod "web" has succeeded, and container "app" never ran` + never},
		"evicted as it waits": {"logs -f web", []string{waits, waits, evicted}, "", creating + "\n" + `error: pod "web" has failed (Evicted), and container "app" never ran` + never},
		"lost":                {"logs -f web", []string{ran}, "", `error: pod "web" has succeeded, and container "app" has no log any more` + "\n"},
		"ended":               {"logs -f web", []string{ran}, "hi\n", ""},
		"waiting":             {"logs web", []string{waits}, "", `Error from server (BadRequest): ` + creating + waiting},
		"gated":               {"logs web", []string{gated}, "", `Error from server (BadRequest): ` + noNode + waiting},
		"gated, followed":     {"logs -f web", []string{gated, gated, waits}, "hi\n", noNode + "\n"},
	} {
		t.Run(name, func(t *testing.T) { // not beside each other: one podctl is one process
			var asked atomic.Int64
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case strings.HasSuffix(r.URL.Path, "/web"):
					pod := c.pods[min(int(asked.Add(1)), len(c.pods))-1]
					fmt.Fprintf(w, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default"},%s}`, pod)
				case !strings.HasSuffix(r.URL.Path, "/web/log"):
				case c.log != "":
					fmt.Fprint(w, c.log)
				case c.pods[min(int(asked.Load()), len(c.pods))-1] == gated: // as podd answers
					w.WriteHeader(http.StatusNoContent)
				default:
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprintf(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"BadRequest","code":400,"message":%q}`, creating)
				}
			})}
			socket := filepath.Join(t.TempDir(), "podd.sock")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- server.Serve(listener) }()
			defer func() { server.Close(); <-ended }()
			out, errOut, code := ask("", append([]string{"--socket", socket}, strings.Fields(c.args)...)...)
			if out != c.log || errOut != c.err || (code == 0) != (c.log != "") || code > 1 {
				t.Errorf("podctl %s: exit code %d\n%s%swant\n%s%s", c.args, code, out, errOut, c.log, c.err)
			}
		})
	}
}
