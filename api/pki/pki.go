// Package pki keeps what podd's TLS port proves itself with and knows its users by: an authority of podd's own, the
// server's certificate, bearer tokens, and the key that signs those of service accounts. Each is one file of mode 0600 in one directory, which is replaced as a whole,
// so that there is no moment at which a kill leaves half of one.
//
//	ca.pem        key and certificate of the authority; kept while it is good
//	server.pem    key and certificate of the server; made again before it ends, or when the host's names have changed
//	tokens        a line "user token" for each user; kept
//	accounts.pem  key that signs the tokens of service accounts; kept
//
// A file that is missing, damaged or over is made again. Nothing is stored of the clients' certificates.
package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// How long certificates are good for. The server's is made again when a third of its time is left.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 365 * 24 * time.Hour
	clientLife    = 365 * 24 * time.Hour

	backdate = time.Hour // clocks of clients that are behind
	check    = time.Hour // how often Run looks: the clock may have been set meanwhile
)

// Options says where the files are and for whom they are made.
type Options struct {
	Dir   string   // made with mode 0700
	Names []string // DNS names of the server
	IPs   []net.IP // addresses of the server
	Users []string // that get a token
	Log   *slog.Logger
}

// PKI is everything in the directory, as it is now.
type PKI struct {
	options Options
	state   atomic.Pointer[state]
}

// state is one generation of the files; it is not changed.
type state struct {
	authority pair
	server    pair
	pool      *x509.CertPool
	tokens    map[[sha256.Size]byte]string // hash of the token to its user
	plain     map[string]string            // user to token
	accounts  *ecdsa.PrivateKey
}

// Open reads the directory and makes what is missing, damaged or over.
func Open(o Options) (*PKI, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &PKI{options: o}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of certificates: %w", err)
	}
	if err := os.Chmod(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of certificates: %w", err)
	}
	if err := p.ensure(time.Now()); err != nil {
		return nil, err
	}
	return p, nil
}

// Run makes the server's certificate again before it ends, until ctx is done.
func (p *PKI) Run(ctx context.Context) {
	for {
		wait := time.NewTimer(min(check, max(time.Second, time.Until(renewal(p.state.Load().server.leaf)))))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		if !p.due(time.Now()) {
			continue
		}
		if err := p.ensure(time.Now()); err != nil {
			p.options.Log.Error("the server's certificate is old", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Minute):
			}
		}
	}
}

// due tells whether one of the certificates in use has to be made again.
func (p *PKI) due(now time.Time) bool {
	s := p.state.Load()
	return p.wrongAuthority(s.authority, now) != nil || wrongTime(s.server.leaf, now) != nil
}

// ensure makes the files good and what is in use the same as the files.
func (p *PKI) ensure(now time.Time) error {
	s := &state{}
	var err error
	s.authority, err = p.ensurePair("ca.pem", now, p.wrongAuthority, newAuthority)
	if err != nil {
		return err
	}
	s.server, err = p.ensurePair("server.pem", now,
		func(old pair, now time.Time) error { return p.wrongServer(old, s.authority, now) },
		func(now time.Time) (pair, error) { return newServer(s.authority, p.options.Names, p.options.IPs, now) })
	if err != nil {
		return err
	}
	if s.plain, err = p.ensureTokens(); err != nil {
		return err
	}
	if s.accounts, err = p.ensureAccountsKey(); err != nil {
		return err
	}
	s.tokens = map[[sha256.Size]byte]string{}
	for _, user := range p.options.Users {
		s.tokens[sha256.Sum256([]byte(s.plain[user]))] = user
	}
	s.pool = x509.NewCertPool()
	s.pool.AddCert(s.authority.leaf)
	p.state.Store(s)
	return nil
}

// ensurePair reads a file; when there is something wrong with it, what make makes takes its place.
func (p *PKI) ensurePair(file string, now time.Time, wrong func(pair, time.Time) error, make func(time.Time) (pair, error)) (
	pair, error) {
	path := filepath.Join(p.options.Dir, file)
	old, err := readPair(path)
	if err == nil {
		err = wrong(old, now)
	}
	switch {
	case err == nil:
		return old, os.Chmod(path, 0o600)
	case errors.Is(err, fs.ErrNotExist):
		p.options.Log.Info("certificate made", "file", path)
	default:
		p.options.Log.Warn("certificate made again", "file", path, "reason", err)
	}
	fresh, err := make(now)
	if err != nil {
		return pair{}, fmt.Errorf("make %s: %w", path, err)
	}
	if err := writeFile(path, fresh.pem()); err != nil {
		return pair{}, fmt.Errorf("write %s: %w", path, err)
	}
	return fresh, nil
}

// wrongAuthority says why the authority cannot be used any longer. One that is not valid yet is kept: it is the clock that
// is wrong, and what was signed with it is still in the hands of users.
func (p *PKI) wrongAuthority(ca pair, now time.Time) error {
	switch {
	case !ca.leaf.IsCA:
		return errors.New("it is not that of an authority")
	case ca.leaf.CheckSignatureFrom(ca.leaf) != nil:
		return errors.New("it is not as it was signed: the file is damaged")
	case now.Add(serverLife / 3).After(ca.leaf.NotAfter):
		return fmt.Errorf("it ends at %s", ca.leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// wrongServer says why the server's certificate has to be made again.
func (p *PKI) wrongServer(server, authority pair, now time.Time) error {
	leaf := server.leaf
	if err := leaf.CheckSignatureFrom(authority.leaf); err != nil {
		return fmt.Errorf("it is not from the present authority: %w", err)
	}
	if err := wrongTime(leaf, now); err != nil {
		return err
	}
	for _, name := range p.options.Names {
		if !slices.Contains(leaf.DNSNames, name) {
			return fmt.Errorf("it is not for the name %s", name)
		}
	}
	for _, ip := range p.options.IPs {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return fmt.Errorf("it is not for the address %s", ip)
		}
	}
	return nil
}

// wrongTime says why it is not the time of a certificate.
func wrongTime(leaf *x509.Certificate, now time.Time) error {
	switch {
	case !now.Before(renewal(leaf)):
		return fmt.Errorf("it ends at %s", leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it begins at %s", leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// renewal is when two thirds of a certificate's time are over.
func renewal(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// Authority is the certificate that clients check the server's with, in PEM.
func (p *PKI) Authority() []byte { return p.state.Load().authority.certificate() }

// Config is for the TLS port. With required set nobody gets past the handshake without a certificate of this authority;
// else whoever brings none is for the server to judge.
func (p *PKI) Config(required bool) *tls.Config {
	clients := tls.VerifyClientCertIfGiven
	if required {
		clients = tls.RequireAndVerifyClientCert
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: clients,
		SessionTicketsDisabled: true, // a resumed session would outlive the authority it was checked with
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s := p.state.Load()
		config := &tls.Config{
			MinVersion: base.MinVersion, NextProtos: base.NextProtos, ClientAuth: clients, SessionTicketsDisabled: true,
			Certificates: []tls.Certificate{s.server.tls()}, ClientCAs: s.pool,
		}
		return config, nil
	}
	return base
}

// Client makes a certificate and its key, in PEM, by which the TLS port knows the user.
func (p *PKI) Client(user string, groups []string) (certificate, key []byte, expires time.Time, err error) {
	made, err := newClient(p.state.Load().authority, user, groups, time.Now())
	if err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("make certificate of %s: %w", user, err)
	}
	return made.certificate(), made.key, made.leaf.NotAfter, nil
}

// Token is the bearer token of one of the users; empty when it has none.
func (p *PKI) Token(user string) string { return p.state.Load().plain[user] }

// User is whose token this is. Tokens are looked up by their hash, so that the time it takes says nothing about them.
func (p *PKI) User(token string) (string, bool) {
	user, ok := p.state.Load().tokens[sha256.Sum256([]byte(token))]
	return user, ok
}

// AccountsKey signs the tokens of service accounts. It changes only when its file was damaged or removed.
func (p *PKI) AccountsKey() *ecdsa.PrivateKey { return p.state.Load().accounts }
