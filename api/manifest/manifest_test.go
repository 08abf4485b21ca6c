package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	sigsyaml "sigs.k8s.io/yaml"

	"podd/api/manifest/tree"
)

var record = flag.Bool("record", false, "write the stories' outcome anew; read it before it is committed")

// TestStories decodes every testdata/stories/*.yaml, those called all-* as any kind, and compares what came of it with the text beside it.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			decode := Decode
			if strings.HasPrefix(filepath.Base(file), "all-") {
				decode = DecodeAll
			}
			got := outcome(decode(filepath.Base(file), bytes.NewReader(source)))
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *record {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func outcome(docs []Document, err error) string {
	var b strings.Builder
	for _, doc := range docs {
		fmt.Fprintf(&b, "%s:%d %s %s %q in %q\n  %s\n", doc.Source, doc.Line, doc.APIVersion, doc.Kind, doc.Name, doc.Namespace, doc.Raw)
	}
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

func TestLine(t *testing.T) {
	source := `# first
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels:
    app: web
    example.com/a.b: x
spec:
  containers:
  - name: app
    image: busybox
    resources:
      limits:
        cpu: 1
  - {name: two,
     image: x}
`
	docs, err := Decode("pod.yaml", strings.NewReader(source))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                                         "2:1",
		"metadata.name":                            "5:3",
		"metadata.labels[app]":                     "7:5",
		"metadata.labels.app":                      "7:5",
		"metadata.labels.example.com/a.b":          "8:5",
		"metadata.labels[example.com/a.b]":         "8:5",
		"spec.containers[0].image":                 "12:5",
		"spec.containers[0].resources.limits[cpu]": "15:9",
		"spec.containers[0].resources.limits.cpu":  "15:9",
		"spec.containers[0].ports[0].hostPort":     "11:5",
		"spec.containers[1].image":                 "17:6",
		"spec.containers[7].image":                 "10:3",
		"spec.containers[":                         "10:3",
		"spec.volumes[0].name":                     "9:1",
		"nothing":                                  "2:1",
	} {
		line, column := Line(docs[0], path)
		if got := fmt.Sprintf("%d:%d", line, column); got != want {
			t.Errorf("%q: got %s, want %s", path, got, want)
		}
	}
}

// TestHostile holds bad sources to one clear error, in bounded time and memory.
func TestHostile(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nspec:\n"
	bomb := pod + "  a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'l'; c++ {
		bomb += fmt.Sprintf("  %c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	big := MaxBytes - 100
	many := strings.Repeat("  - {name: a, image: b, env: [{name: x, value: y}]}\n", 10_000)
	for name, c := range map[string]struct{ source, want string }{
		"too large":            {strings.Repeat("# comment\n", MaxBytes/10+1), "larger than 3 MiB"},
		"alias bomb":           {bomb, "more than 100000 values"},
		"circle":               {pod + "  a: &a [*a]\n", "nested deeper than 100"},
		"anchor in key":        {pod + "  ? &a [*a]\n  : x\n", "a key must be a string"},
		"merge of itself":      {"a: &a\n  <<: *a\n", "nested deeper than 100"},
		"deep flow":            {pod + "  a: " + strings.Repeat("[", 150) + strings.Repeat("]", 150), "nested deeper than 100"},
		"deep block":           {pod + "  a:\n    " + strings.Repeat("- ", 150) + "x\n", "nested deeper than 100"},
		"deep JSON":            {`{"a":` + strings.Repeat("[", 150) + strings.Repeat("]", 150) + "}", "nested deeper than 100"},
		"endless flow":         {pod + "  a: " + strings.Repeat("[", big), "more than 100000 values"},
		"endless JSON":         {`{"a":` + strings.Repeat("[", big), "nested deeper than 100"},
		"many JSON":            {`{"a":[1` + strings.Repeat(",1", big/2) + "]}", "more than 100000 values"},
		"many keys":            {strings.Repeat("a: b\n", big/5), "more than 100000 values"},
		"many lines":           {"a" + strings.Repeat("\n", big), "a manifest is a mapping"},
		"many questions":       {strings.Repeat("? ", big/2), "more than 100000 values"},
		"many bare tags":       {pod + "  a: [" + strings.Repeat("! a, ", big/5), "more than 100000 values"},
		"a line of bare tags":  {pod + "  a: [" + strings.Repeat("! a, ", MaxValues-100) + "]\n", "spec.a: unknown field"},
		"many anchors":         {strings.Repeat("&a ", big/3), "YAML"},
		"many tags":            {strings.Repeat("!a ", big/3), "YAML"},
		"many comments":        {"a:\n" + strings.Repeat(" #\n", big/3), "missing"},
		"many quotes":          {strings.Repeat("'", big), "a manifest is a mapping"},
		"long line":            {"a: " + strings.Repeat("x", big), "unknown field"},
		"long key":             {strings.Repeat("x", big), "a manifest is a mapping"},
		"many documents":       {strings.Repeat("---\na\n", big/6), "and more"},
		"ended documents":      {strings.Repeat("a\n...\n", big/6), "a manifest is a mapping"},
		"ten thousand unknown": {"apiVersion: v1\nkind: Pod\n" + strings.Repeat("xxxxxxxx: 1\n", 10_000), "and more"},
		"containers in a map":  {pod + " containers: {\n" + many + "}", "YAML"},
		"NUL":                  {pod + "\x00", "pod.yaml:4: a NUL byte"},
		"not UTF-8":            {pod + "  hostname: \"a\xff\"", "pod.yaml:4: not UTF-8"},
		"UTF-16":               {"\xfe\xffa", "not UTF-8"},
		"control character":    {pod + "  hostname: \x01", "control characters"},
		"tab":                  {pod + "\thostname: a\n", "pod.yaml:4: a tab in the indentation"},
		"huge number":          {pod + "  priority: 1" + strings.Repeat("0", 400) + "\n", "must be a number"},
		"infinite":             {pod + "  priority: .inf\n", ".inf is not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Decode("pod.yaml", strings.NewReader(c.source))
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && len(err.Error()) > 64<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			t.Logf("%v, %d KiB allocated", took, (after.TotalAlloc-before.TotalAlloc)>>10)
			if took > hung {
				t.Errorf("took %v", took)
			}
			if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 64 {
				t.Errorf("allocated %d MiB", mib)
			}
		})
	}
}

// hung is far above what any source here takes, also on a busy machine under the race detector; what grows faster than
// its source takes longer. With -v the test says how long each took.
const hung = 30 * time.Second

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("gone") }

// A tag that is "!" alone makes text of what follows, as everywhere in Kubernetes.
func TestBareTag(t *testing.T) {
	for written, want := range map[string]string{
		"! null": `"null"`, "!": `""`, "&a ! 1": `"1"`, "! &a ~": `"~"`, "!\n      on": `"on"`, "a! 1": `"a! 1"`, "&a 1": "1",
	} {
		docs, err := Decode("-", strings.NewReader("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n    k: "+written+"\nspec: {}\n"))
		if want == "1" {
			if err == nil {
				t.Errorf("%q is taken for text", written)
			}
			continue
		}
		if err != nil || !strings.Contains(string(docs[0].Raw), `"labels":{"k":`+want+`}`) {
			t.Errorf("%q: got %v, %v, want %s", written, docs, err, want)
		}
	}
}

func TestReaderError(t *testing.T) {
	_, err := Decode("pod.yaml", io.MultiReader(strings.NewReader("apiVersion: v1\n"), broken{}))
	if err == nil || err.Error() != "pod.yaml: gone" {
		t.Errorf("got %v", err)
	}
}

// FuzzDecode looks for sources that break Decode, or that it takes otherwise than Kubernetes' own decoders do.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/stories/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
		for _, part := range bytes.Split(source, []byte("\n---\n")) {
			f.Add(part)
		}
	}
	f.Add([]byte("apiVersion:\nkind: Pod\nmetadata: ! null\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		docs, err := Decode("-", bytes.NewReader(source))
		for _, doc := range docs {
			if line, column := Line(doc, "spec.containers[0].image"); line < 1 || column < 1 {
				t.Errorf("position %d:%d", line, column)
			}
			again, err := Decode("-", bytes.NewReader(doc.Raw))
			if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0].Pod, doc.Pod) {
				t.Errorf("%s: does not survive: %v", doc.Raw, err)
			}
		}
		if err != nil {
			for _, p := range err.(Problems) {
				if strings.Contains(p.Message, "\n") || p.Line < 0 {
					t.Errorf("bad problem %q on line %d", p.Message, p.Line)
				}
			}
			return
		}
		if len(docs) == 1 && parts(source) == 1 && docs[0].Line > 0 {
			same(t, source, docs[0])
		}
	})
}

// parts is how many documents are read from source one by one.
func parts(source []byte) (n int) {
	for range tree.Read(source) {
		n++
	}
	return n
}

// same compares doc with what the YAML library of Kubernetes makes of its source.
func same(t *testing.T, source []byte, doc Document) {
	reference, err := sigsyaml.YAMLToJSONStrict(source)
	if err != nil {
		return // stricter, or another library's bug
	}
	var a, b any
	if json.Unmarshal(reference, &a) != nil || json.Unmarshal(doc.Raw, &b) != nil {
		t.Fatal("not JSON")
	}
	if m, ok := a.(map[string]any); ok && m["items"] == nil && !reflect.DeepEqual(a, b) {
		t.Errorf("got %s, Kubernetes reads %s", doc.Raw, reference)
	}
}

func BenchmarkDecode(b *testing.B) {
	source, err := os.ReadFile("testdata/stories/good.yaml")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode("-", bytes.NewReader(source)); err != nil {
			b.Fatal(err)
		}
	}
}
