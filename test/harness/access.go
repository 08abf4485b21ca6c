package harness

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"podd/api/credentials"
)

// Credentials asks podd for those of credentials.Admin or Reader.
func (p *Podd) Credentials(user string) credentials.Credentials {
	p.t.Helper()
	c := p.httpClient()
	defer c.CloseIdleConnections()
	r, err := c.Get("http://podd" + credentials.Path + "?user=" + user)
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		p.t.Fatalf("credentials of %s: %s: %s %v", user, r.Status, body, err)
	}
	var got credentials.Credentials
	if err := json.Unmarshal(body, &got); err != nil {
		p.t.Fatalf("credentials of %s: %v", user, err)
	}
	return got
}

// TLSConfig is for client-go, over podd's TLS port, with the administrator's certificate. After a restart of podd the port
// is another one.
func (p *Podd) TLSConfig() *rest.Config {
	p.t.Helper()
	return p.tlsConfig(credentials.Admin)
}

// ReaderConfig is TLSConfig for the user that may only read.
func (p *Podd) ReaderConfig() *rest.Config {
	p.t.Helper()
	return p.tlsConfig(credentials.Reader)
}

func (p *Podd) tlsConfig(user string) *rest.Config {
	p.t.Helper()
	c := p.Credentials(user)
	return &rest.Config{Host: c.Server, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.CA, CertData: c.ClientCertificate, KeyData: c.ClientKey}}
}

// Kubeconfig writes a kubeconfig for the TLS port and returns its path. After a restart of podd the port is another one.
func (p *Podd) Kubeconfig(readOnly bool) string {
	p.t.Helper()
	user := credentials.Admin
	if readOnly {
		user = credentials.Reader
	}
	c := p.Credentials(user)
	config := clientcmdapi.NewConfig()
	config.Clusters["podd"] = &clientcmdapi.Cluster{Server: c.Server, CertificateAuthorityData: c.CA}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: c.ClientCertificate, ClientKeyData: c.ClientKey}
	config.Contexts["podd"] = &clientcmdapi.Context{Cluster: "podd", AuthInfo: user}
	config.CurrentContext = "podd"
	path := filepath.Join(p.Dir, "kubeconfig-"+user)
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}
