package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"podd/api/credentials"
)

// kubeconfig gets credentials for the TLS port from podd.
func (p *podctl) kubeconfig() *cobra.Command {
	var readOnly, merge, token, use bool
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig for kubectl and other clients",
		Long: "Print a kubeconfig with which kubectl and every other client of Kubernetes reaches podd's TLS port.\n\n" +
			"It holds all it needs: the certificate of podd's authority, a client certificate and its key. With --merge it goes\n" +
			"into your kubeconfig ($KUBECONFIG, or ~/.kube/config) instead, beside what is there.",
		Example: `  # Use kubectl with podd
  podctl kubeconfig --merge
  kubectl --context podd get pods

  # A file of its own, for somebody who may only look
  podctl kubeconfig --read-only > reader.yaml
  kubectl --kubeconfig reader.yaml get pods`,
		Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			if use && !merge {
				cmdutil.CheckErr(errors.New("--use is for --merge: a kubeconfig of its own uses podd anyway"))
			}
			ctx, stop := interruptible()
			defer stop()
			user := credentials.Admin
			if readOnly {
				user = credentials.Reader
			}
			got, err := p.credentials(ctx, user, merge)
			cmdutil.CheckErr(err)
			config := configOf(got, token, *p.client.config.Namespace)
			if !merge {
				text, err := clientcmd.Write(*config)
				cmdutil.CheckErr(err)
				_, err = p.streams.Out.Write(text)
				cmdutil.CheckErr(err)
				if f, ok := p.streams.Out.(*os.File); ok && readable(f) {
					fmt.Fprintln(p.shown.ErrOut, "warning: others may read the file that this goes into, and do with it what it is for: chmod 600")
				}
				return
			}
			file, err := kubeconfigFile(*p.client.config.KubeConfig)
			cmdutil.CheckErr(err)
			current, err := mergeInto(ctx, file, config, use)
			cmdutil.CheckErr(err)
			fmt.Fprintf(p.shown.Out, "context %q written to %s\n", config.CurrentContext, file)
			if current != config.CurrentContext {
				fmt.Fprintf(p.shown.Out, "The current context is still %q: use `kubectl --context %s`, or run this with --use.\n", current, config.CurrentContext)
			}
		},
	}
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "for a user who may look at everything but secrets and change nothing")
	cmd.Flags().BoolVar(&merge, "merge", false, "put it into your kubeconfig, which keeps all else that is there")
	cmd.Flags().BoolVar(&use, "use", false, "with --merge: make it the current context, also if there is another")
	cmd.Flags().BoolVar(&token, "token", false, "a bearer token in place of the client certificate; it does not expire, and is for loopback addresses")
	return cmd
}

// readable tells whether f is a file that more than its owner may read.
func readable(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o044 != 0
}

// credentials asks podd for what it takes to be user, to be printed or to be merged into a kubeconfig.
func (p *podctl) credentials(ctx context.Context, user string, merge bool) (credentials.Credentials, error) {
	// The kubeconfig that is written is not the way to podd: its credentials may be those that have to be replaced.
	if flags := p.client.flags; !flags.Changed("context") && !flags.Changed("server") && (merge || !flags.Changed("kubeconfig")) {
		p.client.remote = func() bool { return false }
	}
	var got credentials.Credentials
	res, err := p.client.request(ctx, http.MethodGet, credentials.Path, url.Values{"user": {user}}, nil)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		return got, fmt.Errorf("read credentials: %w", err)
	}
	if got.Server == "" || len(got.CA) == 0 {
		return got, errors.New("podd has no TLS port: start it without an empty --tls-listen")
	}
	return got, nil
}

// configOf is the kubeconfig for got, with one context.
func configOf(got credentials.Credentials, token bool, namespace string) *clientcmdapi.Config {
	name := adminContext
	if got.User == credentials.Reader {
		name = readerContext
	}
	user := &clientcmdapi.AuthInfo{ClientCertificateData: got.ClientCertificate, ClientKeyData: got.ClientKey}
	if token {
		user = &clientcmdapi.AuthInfo{Token: got.Token}
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["podd"] = &clientcmdapi.Cluster{Server: got.Server, CertificateAuthorityData: got.CA}
	config.AuthInfos[name] = user
	config.Contexts[name] = &clientcmdapi.Context{Cluster: "podd", AuthInfo: name, Namespace: namespace}
	config.CurrentContext = name
	return config
}

// kubeconfigFile is the user's kubeconfig: the one named, or the first of $KUBECONFIG, or ~/.kube/config.
func kubeconfigFile(named string) (string, error) {
	if named == "" {
		if list := filepath.SplitList(os.Getenv("KUBECONFIG")); len(list) > 0 {
			named = list[0]
		}
	}
	if named == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find your kubeconfig: %w", err)
		}
		named = filepath.Join(home, ".kube", "config")
	}
	// A link is written through, so that it stays one.
	real, err := filepath.EvalSymlinks(named)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Abs(named)
	}
	return real, err
}

// mergeInto adds config to the kubeconfig in file, which is replaced as a whole or stays as it is, and returns its current
// context. Other clients of the file wait meanwhile, as they do for each other.
func mergeInto(ctx context.Context, file string, config *clientcmdapi.Config, use bool) (current string, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, file+".lock")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	mode := fs.FileMode(0o600)
	there, err := clientcmd.LoadFromFile(file)
	switch info, statErr := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		there = clientcmdapi.NewConfig()
	case err != nil:
		return "", fmt.Errorf("%s: %w", file, err)
	case statErr == nil:
		mode = info.Mode().Perm() &^ 0o077 // keys are in there now
	}
	for name, cluster := range config.Clusters {
		there.Clusters[name] = cluster
	}
	for name, user := range config.AuthInfos {
		there.AuthInfos[name] = user
	}
	for name, context := range config.Contexts {
		there.Contexts[name] = context
	}
	if use || there.CurrentContext == "" {
		there.CurrentContext = config.CurrentContext
	}
	text, err := clientcmd.Write(*there)
	if err != nil {
		return "", err
	}
	return there.CurrentContext, exchange(file, text, mode)
}

// lock makes the file that kubectl too makes while it changes a kubeconfig.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	limit := time.After(10 * time.Second)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() error { return os.Remove(path) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-limit:
			return nil, fmt.Errorf("%s is there: another program changes your kubeconfig, or died while it did; remove it if none does", path)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// exchange puts text in the place of file, so that file is always whole.
func exchange(file string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".config-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone when it took the place
	var owner unix.Stat_t
	if unix.Stat(file, &owner) == nil {
		_ = f.Chown(int(owner.Uid), int(owner.Gid)) // as root on somebody's file; else it is theirs already
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}
