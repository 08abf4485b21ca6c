package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"podd/api/manifest"
)

// maxSources bounds the files that one command reads. Each is bounded by itself.
const maxSources = 10_000

// reader decodes one source: manifest.DecodeAll, or another of its kind.
type reader func(source string, r io.Reader) ([]manifest.Document, error)

// gather decodes all that names stand for: files, directories, patterns, URLs, "-" for in. The error, if any, is
// manifest.Problems with what is wrong in all of them.
func (read reader) gather(ctx context.Context, names []string, recursive bool, in io.Reader) ([]manifest.Document, error) {
	var all []manifest.Document
	var problems manifest.Problems
	var sources []string
	for _, name := range names {
		found, err := expand(name, recursive)
		if err != nil {
			problems = append(problems, manifest.Problem{Source: name, Message: plainly(err)})
		}
		sources = append(sources, found...)
	}
	if len(sources) > maxSources {
		return nil, fmt.Errorf("%d files: more than %d at once", len(sources), maxSources)
	}
	for _, source := range sources {
		docs, err := read.decode(ctx, source, in)
		all = append(all, docs...)
		var more manifest.Problems
		switch {
		case errors.As(err, &more):
			problems = append(problems, more...)
		case err != nil:
			problems = append(problems, manifest.Problem{Source: source, Message: plainly(err)})
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return all, nil
}

// plainly is err without what a Problem says itself: the operation and the path.
func plainly(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

func remote(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// expand turns a name into sources. A directory stands for its manifests, in order of their names.
func expand(name string, recursive bool) ([]string, error) {
	if name == "-" || remote(name) {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(name, "*?[") {
		if found, bad := filepath.Glob(name); bad == nil && len(found) > 0 {
			return found, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var found []string
	err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != name && !recursive:
			return fs.SkipDir
		case !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			found = append(found, path)
		}
		if len(found) > maxSources {
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = errors.New("no .yaml, .yml or .json file in this directory")
	}
	return found, err
}

func (read reader) decode(ctx context.Context, source string, in io.Reader) ([]manifest.Document, error) {
	switch {
	case source == "-":
		return read(source, in)
	case remote(source):
		body, err := fetch(ctx, source)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		return read(source, body)
	}
	file, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return read(source, file)
}

// fetch gets a manifest by HTTP. Without TLS it does so only from this host: what arrives is run here.
func fetch(ctx context.Context, source string) (io.ReadCloser, error) {
	client := &http.Client{
		Timeout: 30 * time.Second,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 10 {
				return errors.New("more than 10 redirects")
			}
			return trusted(req.URL)
		},
	}
	u, err := url.Parse(source)
	if err != nil {
		return nil, err
	}
	if err := trusted(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err
		}
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	return res.Body, nil
}

func trusted(u *url.URL) error {
	if u.Scheme == "https" {
		return nil
	}
	name := u.Hostname()
	if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("plain http is read only from this host, not from %s: use https", name)
}

// customized builds the kustomization in dir and decodes what comes of it.
func (read reader) customized(dir string) ([]manifest.Document, error) {
	source := "kustomization " + dir
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, manifest.Problems{{Source: source, Message: err.Error()}}
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, manifest.Problems{{Source: source, Message: err.Error()}}
	}
	return read(source, bytes.NewReader(text))
}
