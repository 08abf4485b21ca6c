package main

import (
	"strings"
	"testing"
)

// TestSortBy: that nothing can be sorted by a field is an error, and not that nothing was found.
func TestSortBy(t *testing.T) {
	serve(t)
	none := func(args string) {
		t.Helper()
		if out, errOut, code := ask("", strings.Fields(args)...); code != 0 || out != "" || errOut != "No resources found in default namespace.\n" {
			t.Errorf("podctl %s: exit code %d, %s%s", args, code, out, errOut)
		}
	}
	none("get pods --sort-by=.metadata.wrong")
	for _, name := range []string{"b", "a"} {
		if _, errOut, code := ask("", "run", name, "--image=x"); code != 0 {
			t.Fatal(errOut)
		}
	}
	none("get pods -l a=b --sort-by=.metadata.wrong")
	for args, want := range map[string]string{
		"get pods --sort-by=wrong":               `error: couldn't find any field with path "{.wrong}" in the list of objects`,
		"get pods -o wide --sort-by=.spec.a":     `error: couldn't find any field with path "{.spec.a}" in the list of objects`,
		"get pods --sort-by={.metadata":          "error: unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
		"get pods --sort-by=wrong -o yaml":       `error: couldn't find any field with path "{.wrong}" in the list of objects`,
		"get pods --show-labels --sort-by=wrong": `error: couldn't find any field with path "{.wrong}" in the list of objects`,
		"get pods -A --sort-by .status.wrong":    `error: couldn't find any field with path "{.status.wrong}" in the list of objects`,
		"get pods nope --sort-by=.status.wrong":  `Error from server (NotFound): pods "nope" not found`,
	} {
		if out, errOut, code := ask("", strings.Fields(args)...); code != 1 || out != "" || !strings.HasPrefix(errOut, want+"\n") || strings.Count(errOut, "->") > 1 {
			t.Errorf("podctl %s: exit code %d, %s%s", args, code, out, errOut)
		}
	}
	if out, errOut, code := ask("", "get", "pods", "--sort-by=.metadata.name", "--no-headers"); code != 0 || errOut != "" || !strings.HasPrefix(out, "a ") || !strings.Contains(out, "\nb ") {
		t.Errorf("sorted by name: exit code %d, %s%s", code, out, errOut)
	}
}

// TestNoNamespace: where nothing was found it is said if that is because there is no such namespace, by whichever way pods are listed.
func TestNoNamespace(t *testing.T) {
	serve(t)
	if _, errOut, code := ask("", "create", "namespace", "empty"); code != 0 {
		t.Fatal(errOut)
	}
	for args, want := range map[string]string{
		"get pods -n nope":              "No resources found in nope namespace.\n-> There is no namespace nope: podctl get namespaces shows which there are.\n",
		"get configmaps -n nope":        "No resources found in nope namespace.\n-> There is no namespace nope: podctl get namespaces shows which there are.\n",
		"get pods -n nope --sort-by .a": "No resources found in nope namespace.\n-> There is no namespace nope: podctl get namespaces shows which there are.\n",
		"get pods -n empty":             "No resources found in empty namespace.\n",
		"get pods":                      "No resources found in default namespace.\n",
		"get pods -A -l a=b":            "No resources found\n",
	} {
		if out, errOut, code := ask("", strings.Fields(args)...); code != 0 || out != "" || errOut != want {
			t.Errorf("podctl %s: exit code %d\n%s%s", args, code, out, errOut)
		}
	}
}
