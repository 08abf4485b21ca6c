package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var files = []string{"ca.pem", "server.pem", "tokens", "accounts.pem"}

func options(dir string, log *bytes.Buffer) Options {
	o := Options{Dir: dir, Names: []string{"localhost", "node-1"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		Users: []string{"admin", "reader"}}
	if log != nil {
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return o
}

func open(t *testing.T, o Options) *PKI {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(data)
	}
	return got
}

// shake makes a TLS connection to a server of p and returns what each side makes of it.
func shake(t *testing.T, p *PKI, required bool, client *tls.Config) (server tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	s := tls.Server(a, p.Config(required))
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("."))
		}
		done <- err
		_ = a.Close()
	}()
	c := tls.Client(b, client)
	_, clientErr = c.Read(make([]byte, 1)) // in TLS 1.3 a client learns after its handshake that it is refused
	_ = b.Close()
	serverErr = <-done
	return s.ConnectionState(), serverErr, clientErr
}

// trusting is a client that knows the authority, and has a certificate unless user is empty.
func trusting(t *testing.T, p *PKI, name, user string, groups ...string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.Authority()) {
		t.Fatal("the authority is not PEM")
	}
	config := &tls.Config{RootCAs: pool, ServerName: name}
	if user != "" {
		certificate, key, expires, err := p.Client(user, groups)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		if life := time.Until(expires); life < serverLife/3-time.Minute || life > clientLife {
			t.Errorf("the certificate is good for %v", life)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// mustServe checks that clients that know the authority get through.
func mustServe(t *testing.T, p *PKI) {
	t.Helper()
	for _, name := range []string{"localhost", "node-1", "127.0.0.1", "::1"} {
		state, serverErr, clientErr := shake(t, p, true, trusting(t, p, name, "podd-admin", "system:masters"))
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s: server %v, client %v", name, serverErr, clientErr)
		}
		if len(state.VerifiedChains) != 1 {
			t.Fatalf("%s: chains %v", name, state.VerifiedChains)
		}
		subject := state.VerifiedChains[0][0].Subject
		if subject.CommonName != "podd-admin" || !slices.Equal(subject.Organization, []string{"system:masters"}) {
			t.Errorf("%s: client is %v", name, subject)
		}
	}
}

func TestFirstStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p := open(t, options(dir, nil))
	mustServe(t, p)
	for _, path := range append([]string{""}, files...) {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]os.FileMode{true: 0o700, false: 0o600}[info.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%q has mode %v", path, info.Mode())
		}
	}
	first := contents(t, dir)
	if len(first) != len(files) {
		t.Errorf("files: %v", first)
	}
	var log bytes.Buffer
	again := open(t, options(dir, &log))
	mustServe(t, again)
	if second := contents(t, dir); fmt.Sprint(second) != fmt.Sprint(first) || log.Len() != 0 {
		t.Errorf("a second start changed the files; log: %s", &log)
	}
	if again.Token("admin") != p.Token("admin") || !bytes.Equal(again.Authority(), p.Authority()) {
		t.Error("a second start hands out something else")
	}
}

func TestModesAreMadeRight(t *testing.T) {
	dir := t.TempDir()
	open(t, options(dir, nil))
	for _, f := range append([]string{"."}, files...) {
		if err := os.Chmod(filepath.Join(dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	open(t, options(dir, nil))
	for _, f := range append([]string{"."}, files...) {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
	}
}

// TestDamage: whatever has become of one file, podd starts, says so, and keeps the others.
func TestDamage(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	open(t, options(dir, nil))
	open(t, options(other, nil))
	good, foreign := contents(t, dir), contents(t, other)
	type damage struct{ name, file, content string }
	var all []damage
	for _, f := range files {
		for n := 0; n < len(good[f]); n += 61 {
			all = append(all, damage{fmt.Sprintf("%s cut at %d", f, n), f, good[f][:n]})
		}
		flipped := []byte(good[f])
		flipped[len(flipped)/2] ^= 1
		all = append(all, damage{f + " flipped", f, string(flipped)}, damage{f + " of zeroes", f, strings.Repeat("\x00", len(good[f]))})
	}
	for n := strings.Index(good["ca.pem"], "-----BEGIN CERTIFICATE-----\n") + 28; n < len(good["ca.pem"])-30; n += 17 { // in what its key has signed, and the signature
		flipped := []byte(good["ca.pem"])
		flipped[n] ^= 1
		all = append(all, damage{fmt.Sprintf("ca.pem flipped at %d", n), "ca.pem", string(flipped)})
	}
	foreignKey := strings.SplitAfter(foreign["server.pem"], "-----END PRIVATE KEY-----\n")[0]
	ownCertificate := strings.SplitAfter(good["server.pem"], "-----END PRIVATE KEY-----\n")[1]
	all = append(all,
		damage{"server of another authority", "server.pem", foreign["server.pem"]},
		damage{"server with another key", "server.pem", foreignKey + ownCertificate},
		damage{"server in place of the authority", "ca.pem", good["server.pem"]})
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) {
			for f, content := range good {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, d.file), []byte(d.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			p := open(t, options(dir, &log))
			mustServe(t, p)
			if _, ok := p.User(p.Token("reader")); !ok || p.Token("reader") == "" {
				t.Error("the token is not known")
			}
			now := contents(t, dir)
			if now[d.file] == d.content {
				t.Error("the file is as it was")
			}
			for _, f := range files {
				if f != d.file && now[f] != good[f] && (f != "server.pem" || d.file != "ca.pem") {
					t.Errorf("%s was made again too", f)
				}
			}
			if d.content != "" && d.name != "tokens flipped" && !strings.Contains(log.String(), d.file) {
				t.Errorf("no line in the log about %s: %s", d.file, &log)
			}
		})
	}
}

// TestKilled: each state that a kill can leave behind is one to go on from, and what was made before stays.
func TestKilled(t *testing.T) {
	whole := t.TempDir()
	open(t, options(whole, nil))
	good := contents(t, whole)
	for made := range len(files) + 1 {
		for _, half := range []string{"", "-----BEGIN", strings.Repeat("x", 5000)} {
			dir := t.TempDir()
			for i, f := range files {
				if i < made {
					if err := os.WriteFile(filepath.Join(dir, f), []byte(good[f]), 0o600); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(filepath.Join(dir, f+".new"), []byte(half), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			mustServe(t, open(t, options(dir, nil)))
			now := contents(t, dir)
			if len(now) != len(files) {
				t.Errorf("%d files made: left are %d", made, len(now))
			}
			for _, f := range files[:made] {
				if now[f] != good[f] {
					t.Errorf("%d files made: %s was made again", made, f)
				}
			}
		}
	}
}

// TestRenewal lives through twelve years: a client that looks up the authority at each start is always served, and one that
// keeps it is served for as long as the authority is good.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := open(t, options(dir, &log))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		begin := time.Now()
		kept := trusting(t, p, "localhost", "")
		servers := map[string]bool{}
		for time.Since(begin) < 12*365*24*time.Hour {
			time.Sleep(20 * 24 * time.Hour)
			synctest.Wait()
			mustServe(t, p)
			if _, _, err := shake(t, p, false, kept); err != nil && time.Since(begin) < authorityLife-serverLife {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
			leaf := p.state.Load().server.leaf
			servers[leaf.SerialNumber.String()] = true
			if left := time.Until(leaf.NotAfter); left < serverLife/4 {
				t.Fatalf("after %v the certificate is good for %v", time.Since(begin), left)
			}
		}
		cancel()
		<-done
		if len(servers) < 17 || len(servers) > 20 {
			t.Errorf("%d certificates of the server in 12 years", len(servers))
		}
		if n := strings.Count(log.String(), "ca.pem"); n != 2 {
			t.Errorf("the authority was made %d times:\n%s", n, &log)
		}
	})
}

// TestClock: a clock that is wrong does not cost the authority, which is in the hands of users.
func TestClock(t *testing.T) {
	dir := t.TempDir()
	p := open(t, options(dir, nil))
	authority := p.Authority()
	past := time.Now().Add(-30 * 365 * 24 * time.Hour)
	if err := p.ensure(past); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Authority(), authority) {
		t.Error("the authority was made again in the past")
	}
	if leaf := p.state.Load().server.leaf; past.Before(leaf.NotBefore) || past.After(leaf.NotAfter) {
		t.Errorf("in the past the certificate is one from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if !p.due(time.Now()) {
		t.Error("with the clock put right nothing is to be done")
	}
	if err := p.ensure(time.Now()); err != nil {
		t.Fatal(err)
	}
	mustServe(t, p)
}

func TestNamesOfTheHostChange(t *testing.T) {
	dir := t.TempDir()
	first := open(t, options(dir, nil))
	o := options(dir, nil)
	o.IPs = append(o.IPs, net.ParseIP("192.0.2.7"))
	o.Names = append(o.Names, "node-2")
	second := open(t, o)
	if !bytes.Equal(first.Authority(), second.Authority()) {
		t.Error("the authority was made again")
	}
	for _, name := range []string{"192.0.2.7", "node-2", "localhost"} {
		if _, _, err := shake(t, second, false, trusting(t, first, name, "")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := shake(t, second, false, trusting(t, first, "192.0.2.8", "")); err == nil {
		t.Error("the certificate is good for any address")
	}
}

// TestWhoIsLetIn is what the handshake decides.
func TestWhoIsLetIn(t *testing.T) {
	p, stranger := open(t, options(t.TempDir(), nil)), open(t, options(t.TempDir(), nil))
	none := trusting(t, p, "localhost", "")
	own := trusting(t, p, "localhost", "podd-reader", "podd:readers")
	foreign := trusting(t, p, "localhost", "")
	foreign.Certificates = trusting(t, stranger, "localhost", "podd-admin", "system:masters").Certificates
	server := trusting(t, p, "localhost", "")
	server.Certificates = []tls.Certificate{p.state.Load().server.tls()}
	old := trusting(t, p, "localhost", "")
	expired, err := newClient(p.state.Load().authority, "podd-admin", []string{"system:masters"}, time.Now().Add(-2*clientLife))
	if err != nil {
		t.Fatal(err)
	}
	old.Certificates = []tls.Certificate{expired.tls()}
	weak := trusting(t, p, "localhost", "podd-reader", "podd:readers")
	weak.MaxVersion = tls.VersionTLS11
	for _, c := range []struct {
		name               string
		client             *tls.Config
		whenAsked, whenDue bool // let in where a certificate is asked for, and where it is required
	}{
		{"no certificate", none, true, false},
		{"own certificate", own, true, true},
		{"certificate of another authority", foreign, true, false}, // clients keep such a one to themselves
		{"certificate of the server", server, false, false},
		{"certificate that is over", old, false, false},
		{"TLS 1.1", weak, false, false},
	} {
		for required, want := range map[bool]bool{false: c.whenAsked, true: c.whenDue} {
			state, serverErr, clientErr := shake(t, p, required, c.client)
			if got := serverErr == nil && clientErr == nil; got != want {
				t.Errorf("%s, required %v: let in %v (%v, %v)", c.name, required, got, serverErr, clientErr)
			}
			if len(state.VerifiedChains) > 0 && c.name != "own certificate" && serverErr == nil {
				t.Errorf("%s, required %v: was verified", c.name, required)
			}
		}
	}
	// One that insists on its foreign certificate.
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign.Certificates[0], nil }
	if _, serverErr, _ := shake(t, p, false, foreign); serverErr == nil {
		t.Error("a certificate of another authority was let in")
	}
}

func TestTokens(t *testing.T) {
	dir := t.TempDir()
	p := open(t, options(dir, nil))
	admin, reader := p.Token("admin"), p.Token("reader")
	if len(admin) < 43 || admin == reader {
		t.Fatalf("tokens %q and %q", admin, reader)
	}
	for token, want := range map[string]string{admin: "admin", reader: "reader", "": "", admin[:42]: "", admin + "A": "", "admin": "",
		strings.ToLower(admin): "", admin + " ": ""} {
		if user, ok := p.User(token); user != want || ok != (want != "") {
			t.Errorf("%q is the token of %q", token, user)
		}
	}
	// A user that is new gets one, and the others keep theirs; who is no user any more has none.
	o := options(dir, nil)
	o.Users = []string{"admin", "auditor"}
	p = open(t, o)
	if user, _ := p.User(admin); user != "admin" {
		t.Errorf("the token of admin has become that of %q", user)
	}
	if user, ok := p.User(reader); ok {
		t.Errorf("the token of reader is still that of %q", user)
	}
	if user, _ := p.User(p.Token("auditor")); user != "auditor" {
		t.Errorf("the new token is that of %q", user)
	}
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(options(file, nil)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
}

// A key that cannot be read is not taken for one that is damaged: it would void all tokens.
func TestAccountsKeyThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	open(t, options(dir, nil))
	path := filepath.Join(dir, "accounts.pem")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("accounts.pem", path); err != nil { // ELOOP, also for root
		t.Fatal(err)
	}
	if _, err := Open(options(dir, nil)); !errors.Is(err, unix.ELOOP) {
		t.Errorf("Open: %v", err)
	}
	if to, err := os.Readlink(path); err != nil || to != "accounts.pem" {
		t.Errorf("the file was written again: %q, %v", to, err)
	}
}
