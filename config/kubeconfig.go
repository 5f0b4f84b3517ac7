package config

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// KubeAccess is how an API server of Kubernetes is reached, and as whom.
type KubeAccess struct {
	Server    string // its URL
	Namespace string // in which names are looked for that come without one
	TokenFile string // read at each request, since tokens are exchanged; or
	Token     string
	ca        []byte // as PEM; nil: the authorities that this host trusts
	cert, key []byte // of ours, as PEM
	name      string // that the server's certificate must bear; empty: its host
	insecure  bool   // the kubeconfig says that its certificate does not matter
}

// kubeconfig is the part of Kubernetes' file that we read
// (kubernetes.io/docs/reference/config-api/kubeconfig.v1). Keys that are not here are somebody else's.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Clusters []struct {
		Name    string
		Cluster struct {
			Server     string
			CA         string `yaml:"certificate-authority"`
			CAData     string `yaml:"certificate-authority-data"`
			ServerName string `yaml:"tls-server-name"`
			Insecure   bool   `yaml:"insecure-skip-tls-verify"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Token     string
			TokenFile string         `yaml:"tokenFile"`
			Cert      string         `yaml:"client-certificate"`
			CertData  string         `yaml:"client-certificate-data"`
			Key       string         `yaml:"client-key"`
			KeyData   string         `yaml:"client-key-data"`
			Exec      map[string]any `yaml:"exec"`
			Provider  map[string]any `yaml:"auth-provider"`
		}
	}
	Contexts []struct {
		Name    string
		Context struct{ Cluster, User, Namespace string }
	}
}

// ReadKubeconfig reads what a context of a kubeconfig says; "" is its current one.
func ReadKubeconfig(path, named string) (*KubeAccess, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	access, err := readKubeconfig(text, filepath.Dir(path), named)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return access, nil
}

// readKubeconfig: paths in the file are relative to its folder.
func readKubeconfig(text []byte, dir, named string) (*KubeAccess, error) {
	var k kubeconfig
	if err := yaml.Load(text, &k, yaml.WithKnownFields(false)); err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if named == "" {
		named = k.Current
	}
	for _, c := range k.Contexts {
		if c.Name == named {
			a := &KubeAccess{Namespace: c.Context.Namespace}
			if err := k.cluster(a, c.Context.Cluster, dir); err != nil {
				return nil, err
			}
			return a, k.user(a, c.Context.User, dir)
		}
	}
	return nil, fmt.Errorf("it has no context %s", quote(named))
}

func (k *kubeconfig) cluster(a *KubeAccess, name, dir string) (err error) {
	for _, c := range k.Clusters {
		if c.Name == name {
			a.Server, a.name, a.insecure = strings.TrimSuffix(c.Cluster.Server, "/"), c.Cluster.ServerName, c.Cluster.Insecure
			if a.Server == "" {
				return fmt.Errorf("cluster %s has no server", quote(name))
			}
			a.ca, err = fileOr(c.Cluster.CA, c.Cluster.CAData, dir, "certificate-authority")
			return err
		}
	}
	return fmt.Errorf("it has no cluster %s", quote(name))
}

func (k *kubeconfig) user(a *KubeAccess, name, dir string) (err error) {
	for _, u := range k.Users {
		if u.Name != name {
			continue
		}
		if u.User.Exec != nil || u.User.Provider != nil {
			return fmt.Errorf("user %s gets its credentials from a program, which we do not run; use a token, a tokenFile or a certificate", quote(name))
		}
		a.Token = u.User.Token
		if u.User.TokenFile != "" {
			a.TokenFile = within(dir, u.User.TokenFile)
		}
		if a.cert, err = fileOr(u.User.Cert, u.User.CertData, dir, "client-certificate"); err != nil {
			return err
		}
		a.key, err = fileOr(u.User.Key, u.User.KeyData, dir, "client-key")
		return err
	}
	if name == "" {
		return nil
	}
	return fmt.Errorf("it has no user %s", quote(name))
}

func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// fileOr is what the file or else its data in base64 holds.
func fileOr(path, data, dir, what string) ([]byte, error) {
	if data != "" {
		text, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, fmt.Errorf("%s-data is not base64", what)
		}
		return text, nil
	}
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(within(dir, path))
	if err != nil {
		return nil, fmt.Errorf("read its %s: %w", what, err)
	}
	return text, nil
}

// PodAccess is that of the service account of the pod that we run in, whose files are in dir
// (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
func PodAccess(dir string) (*KubeAccess, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("we do not run in a pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); name a kubeconfig")
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the pod's service account: %w", err)
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("read the pod's service account: %w", err)
	}
	return &KubeAccess{
		Server: "https://" + net.JoinHostPort(host, port), Namespace: strings.TrimSpace(string(namespace)),
		TokenFile: filepath.Join(dir, "token"), ca: ca,
	}, nil
}

// Over speaks TLS to the API server on a connection, which it closes where that fails.
func (a *KubeAccess) Over(ctx context.Context, socket net.Conn, addr string) (net.Conn, error) {
	c := &tls.Config{ServerName: a.name, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: a.insecure} //nolint:gosec // its owner said so
	if host, _, err := net.SplitHostPort(addr); err == nil && c.ServerName == "" {
		c.ServerName = host
	}
	if a.ca != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(a.ca) {
			return nil, errors.Join(errors.New("the certificate authority of Kubernetes is not PEM"), socket.Close())
		}
	}
	if a.cert != nil {
		pair, err := tls.X509KeyPair(a.cert, a.key)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("load the client certificate: %w", err), socket.Close())
		}
		c.Certificates = []tls.Certificate{pair}
	}
	conn := tls.Client(socket, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("speak TLS: %w", err), socket.Close())
	}
	return conn, nil
}
