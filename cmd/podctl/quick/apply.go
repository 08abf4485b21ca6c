package quick

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"podd/api/manifest/tree"
)

// maxManifest is the size of a file that is looked at, in bytes.
const maxManifest = 1 << 20

// lastApplied is where kubectl's apply finds again what it applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// apply makes one pod that is not there yet. podd takes a field for an error that it does not know, and makes nothing then; so
// a pod that is there, and whatever is wrong, is for kubectl's apply to see.
func apply(args []string, env func(string) string, stdout, stderr io.Writer) bool {
	m, ok := parseApply(args, env)
	if !ok {
		return false
	}
	pod, ok := m.read()
	if !ok {
		return false
	}
	body, ok := applied(pod)
	if !ok {
		return false
	}
	r, err := exchange(m.socket, "POST /api/v1/namespaces/"+m.namespace+"/pods?fieldManager=kubectl-client-side-apply&fieldValidation=Strict HTTP/1.0\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n", body)
	if err != nil || r.status != "201 Created" {
		return false
	}
	said := map[string]bool{}
	for _, w := range r.warnings {
		if !said[w] {
			_, _ = fmt.Fprintln(stderr, "Warning:", w)
			said[w] = true
		}
	}
	_, _ = fmt.Fprintln(stdout, "pod/"+m.name+" created") // kubectl's apply does not see whether it could, either
	return true
}

// making is what is to be made.
type making struct {
	common

	file, name string
}

// parseApply reads the arguments, as far as they have nothing that kubectl's apply has to look at.
func parseApply(args []string, env func(string) string) (making, bool) {
	m := making{common: commonOf(env)}
	m.namespace = ""
	words, ok := parse(args, m.flag, "-n", "--namespace", "-f", "--filename", "--socket")
	return m, ok && len(words) == 0 && m.file != ""
}

func (m *making) flag(name, value string) bool {
	if name != "-f" && name != "--filename" {
		return m.common.flag(name, value)
	}
	// A list of files, a pattern, a URL or standard input.
	one := m.file == "" && value != "-" && !strings.ContainsAny(value, ",*?[") && !strings.Contains(value, "://")
	m.file = value
	return one
}

// read gives the pod in the file, if it is one pod and nothing else, and knows its name and namespace from then on.
func (m *making) read() (pod map[string]any, ok bool) {
	if info, err := os.Stat(m.file); err != nil || !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, false
	}
	data, err := os.ReadFile(m.file)
	if err != nil {
		return nil, false
	}
	for roots, bad := range tree.Read(data) {
		if bad != nil || len(roots) != 1 || pod != nil {
			return nil, false
		}
		v, ok := generic(roots[0])
		if !ok {
			return nil, false
		}
		if pod, ok = v.(map[string]any); !ok {
			return nil, false
		}
	}
	if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" {
		return nil, false
	}
	return pod, m.called(pod)
}

// called finds the name and the namespace of the pod, in which it is set.
func (m *making) called(pod map[string]any) bool {
	meta, ok := pod["metadata"].(map[string]any)
	if !ok {
		return false
	}
	m.name, _ = meta["name"].(string)
	namespace, given := meta["namespace"]
	switch {
	case given && m.namespace != "" && namespace != m.namespace:
		return false
	case given:
		m.namespace, _ = namespace.(string)
	case m.namespace == "":
		m.namespace = "default"
	}
	meta["namespace"] = m.namespace
	return plain(m.name) && plain(m.namespace)
}

// generic is v as encoding/json has it, if JSON says it in one way only.
func generic(v *tree.Value) (any, bool) {
	switch v.Kind {
	case tree.Null:
		return nil, true
	case tree.Boolean:
		return v.Text == "true", true
	case tree.Number:
		n, err := strconv.ParseInt(v.Text, 10, 64)
		return n, err == nil && strconv.FormatInt(n, 10) == v.Text
	case tree.Text:
		return v.Text, true
	case tree.List:
		list := make([]any, len(v.Items))
		for i, item := range v.Items {
			var ok bool
			if list[i], ok = generic(item); !ok {
				return nil, false
			}
		}
		return list, true
	}
	fields := make(map[string]any, len(v.Fields))
	for _, f := range v.Fields {
		value, ok := generic(f.Value)
		if _, twice := fields[f.Name]; twice || !ok {
			return nil, false
		}
		fields[f.Name] = value
	}
	return fields, true
}

// applied is the pod as JSON, with what was applied as an annotation, as kubectl's apply writes it.
func applied(pod map[string]any) ([]byte, bool) {
	meta, _ := pod["metadata"].(map[string]any)
	said, given := meta["annotations"]
	annotations, ok := said.(map[string]any)
	if given && !ok {
		return nil, false
	}
	if annotations == nil {
		annotations = map[string]any{}
		meta["annotations"] = annotations
	}
	if _, again := annotations[lastApplied]; again {
		return nil, false
	}
	before, err := json.Marshal(pod)
	if err != nil {
		return nil, false
	}
	annotations[lastApplied] = string(before) + "\n"
	body, err := json.Marshal(pod)
	return body, err == nil
}
