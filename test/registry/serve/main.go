// serve is a registry on loopback with the images of OCI archives, until it gets a signal:
//
//	serve -listen 127.0.0.1:5000 busybox.tar app.tar
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"podd/test/ociimage"
	"podd/test/registry"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:5000", "address")
	flag.Parse()
	r := registry.New()
	for _, name := range flag.Args() {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		images, err := ociimage.ReadOCI(f)
		_ = f.Close()
		if err == nil {
			err = r.Push(images...)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, i := range images {
			fmt.Println(i.Name, i.Manifest.Digest)
		}
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("serving on", l.Addr())
	return (&http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}
