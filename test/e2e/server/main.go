// Command server is the pod that the tests of port-forward and of the proxies talk to. With the arguments "lines FILE" it
// writes numbered lines instead, until the file is there; with "cat" it is cat; with "ticks" it also reads its stdin and
// writes a line 20 times a second.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "lines":
		lines(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		return
	case len(os.Args) == 2 && os.Args[1] == "ticks":
		go func() { _, _ = io.Copy(io.Discard, os.Stdin) }()
		go func() {
			for range time.Tick(50 * time.Millisecond) {
				fmt.Println("tick")
			}
		}()
	}
	listen("tcp4", "127.0.0.1:7001", func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	listen("tcp6", "[::1]:7002", func(c *net.TCPConn) { _, _ = io.WriteString(c, "six\n") })
	listen("tcp4", "127.0.0.1:7003", func(c *net.TCPConn) { // answers only after the other side has ended
		n, _ := io.Copy(io.Discard, c)
		_, _ = fmt.Fprintf(c, "%d bytes\n", n)
	})
	listen("tcp4", "127.0.0.1:7004", func(c *net.TCPConn) { // says all it has to say, and goes on listening
		_, _ = io.WriteString(c, "hello\n")
		_ = c.CloseWrite()
		_, _ = io.Copy(os.Stdout, c)
	})
	listen("tcp4", "127.0.0.1:7005", func(c *net.TCPConn) { // a gigabyte, or as much of it as is wanted
		chunk := make([]byte, 1<<20)
		for range 1 << 10 {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"method": r.Method, "uri": r.RequestURI, "header": r.Header, "body": string(body), "tls": r.TLS != nil,
		})
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<a href="/other">other</a><a href="relative">relative</a><a href="http://elsewhere.example/x">else</a>`)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		for chunk := make([]byte, 1<<20); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/there", http.StatusFound) })
	mux.HandleFunc("/metadata", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
	})
	mux.HandleFunc("/upgrade", upgrade)
	go func() { log.Fatal(http.ListenAndServe(":8080", mux)) }()
	server := &http.Server{Addr: ":8443", Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate()}}}
	go func() { log.Fatal(server.ListenAndServeTLS("", "")) }()
	fmt.Println("ready")
	select {}
}

// lines writes a megabyte per second, in lines of 100 bytes, and waits after the last one, which says "end".
func lines(until string) {
	n := 0
	for range time.Tick(10 * time.Millisecond) {
		var chunk []byte
		for range 100 {
			n++
			chunk = fmt.Appendf(chunk, "%09d %s\n", n, "the quick brown fox jumps over the lazy dog, and then the lazy dog jumps over the quick bro")
		}
		_, _ = os.Stdout.Write(chunk)
		if _, err := os.Stat(until); err == nil {
			break
		}
	}
	fmt.Printf("%09d end\n", n+1)
	select {}
}

func listen(network, address string, serve func(*net.TCPConn)) {
	l, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
}

// upgrade takes the connection over and echoes, as a WebSocket would, without its framing.
func upgrade(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		log.Print(err)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
