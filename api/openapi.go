package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:generate go run ./openapi/generate openapi

// documents are the OpenAPI descriptions of what is served, made by go generate: v2.json.gz, v2.pb.gz, and for each
// group and version v3/<path with _ for />.json.gz and .pb.gz.
//
//go:embed openapi/v2.json.gz openapi/v2.pb.gz openapi/v3
var documents embed.FS

const (
	protobufV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	protobufV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

func serveOpenAPIv2(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "v2@v1.0+protobuf") || strings.Contains(r.Header.Get("Accept"), "v2.v1.0+protobuf") {
		serveDocument(w, r, "openapi/v2.pb.gz", protobufV2)
		return
	}
	serveDocument(w, r, "openapi/v2.json.gz", "application/json")
}

func serveOpenAPIv3(w http.ResponseWriter, r *http.Request) {
	name := "openapi/v3/" + strings.ReplaceAll(r.PathValue("group"), "/", "_")
	if strings.Contains(r.Header.Get("Accept"), "v3@v1.0+protobuf") || strings.Contains(r.Header.Get("Accept"), "v3.v1.0+protobuf") {
		serveDocument(w, r, name+".pb.gz", protobufV3)
		return
	}
	serveDocument(w, r, name+".json.gz", "application/json")
}

// serveOpenAPIv3Index says which groups there are. The hash lets clients keep what they have.
func serveOpenAPIv3Index(w http.ResponseWriter, r *http.Request) {
	type link struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]link{}
	names, _ := fs.Glob(documents, "openapi/v3/*.json.gz")
	for _, name := range names {
		data, err := documents.ReadFile(name)
		if err != nil {
			continue
		}
		group := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(name, "openapi/v3/"), ".json.gz"), "_", "/")
		paths[group] = link{"/openapi/v3/" + group + "?hash=" + etag(data)}
	}
	respondJSON(w, http.StatusOK, map[string]any{"paths": paths})
}

func etag(data []byte) string {
	sum := sha256.Sum256(data)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func serveDocument(w http.ResponseWriter, r *http.Request, name, contentType string) {
	data, err := documents.ReadFile(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Etag", `"`+etag(data)+`"`)
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	if r.Header.Get("If-None-Match") == `"`+etag(data)+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", contentType)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(data)
		return
	}
	if unzipped, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		_, _ = io.Copy(w, unzipped)
	}
}

// lazyTypes is the schema of server-side apply: it is read from the documents at the first write.
type lazyTypes struct {
	once  sync.Once
	types managedfields.TypeConverter
	err   error
}

func (l *lazyTypes) load() error {
	l.once.Do(func() { l.types, l.err = readTypes() })
	return l.err
}

func (l *lazyTypes) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if err := l.load(); err != nil {
		return nil, err
	}
	return l.types.ObjectToTyped(obj, opts...)
}

func (l *lazyTypes) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	if err := l.load(); err != nil {
		return nil, err
	}
	return l.types.TypedToObject(value)
}

func readTypes() (managedfields.TypeConverter, error) {
	schemas := map[string]*spec.Schema{}
	names, err := fs.Glob(documents, "openapi/v3/*.json.gz")
	if err != nil || len(names) == 0 {
		return nil, errors.Join(errors.New("read the API's schema: there is none: run go generate"), err)
	}
	for _, name := range names {
		if err := readSchemas(name, schemas); err != nil {
			return nil, fmt.Errorf("read the API's schema %s: %w", name, err)
		}
	}
	return managedfields.NewTypeConverter(schemas, false)
}

func readSchemas(name string, into map[string]*spec.Schema) error {
	file, err := documents.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	var document struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.NewDecoder(unzipped).Decode(&document); err != nil {
		return err
	}
	for name, text := range document.Components.Schemas {
		if into[name] != nil { // every document repeats what its kinds have in common with others
			continue
		}
		schema := &spec.Schema{}
		if err := json.Unmarshal(text, schema); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		into[name] = schema
	}
	return nil
}
