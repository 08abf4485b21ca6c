// mkimage writes an OCI archive of an image made from files of this host:
//
//	mkimage -name busybox:1.36 -busybox /bin/busybox -o busybox.tar
//	mkimage -name app:1 -file ./app=app -cmd /app -o app.tar
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"podd/test/ociimage"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	name := flag.String("name", "docker.io/library/busybox:latest", "reference of the image")
	busybox := flag.String("busybox", "", "static busybox to begin with")
	out := flag.String("o", "image.tar", "archive to write")
	docker := flag.Bool("docker", false, "write a docker archive")
	cmd := flag.String("cmd", "", "default command, words separated by blanks")
	var files []ociimage.File
	flag.Func("file", "SOURCE=PATH: a file to put in; may be repeated", func(s string) error {
		source, path, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not SOURCE=PATH", s)
		}
		st, err := os.Stat(source)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(source)
		files = append(files, ociimage.File{Path: strings.TrimPrefix(path, "/"), Mode: int64(st.Mode().Perm()), Content: content})
		return err
	})
	flag.Parse()
	image := ociimage.Image{Name: *name}
	if *busybox != "" {
		if image, err = ociimage.Busybox(*name, *busybox); err != nil {
			return err
		}
	}
	if len(files) > 0 {
		image.Layers = append(image.Layers, files)
	}
	if *cmd != "" {
		image.Config.Cmd = strings.Fields(*cmd)
	}
	built, err := image.Build()
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	if *docker {
		err = ociimage.WriteDocker(f, built)
	} else {
		err = ociimage.WriteOCI(f, built)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
