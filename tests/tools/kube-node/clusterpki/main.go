// clusterpki writes what the parts of a test cluster know each other by: one authority, a certificate for
// each part, and kubeconfigs. Everything is valid for a few days around now and lies in one folder that goes
// away with the cluster.
//
//	clusterpki DIR SERVER SERVER-ADDRESS,.. NODE=ADDRESS..
//
// SERVER is the URL that stands in the kubeconfigs of the parts, SERVER-ADDRESS the further addresses and names
// for which the API server's certificate holds.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lifetime is twice as long as anybody leaves a test cluster running.
const lifetime = 14 * 24 * time.Hour

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: clusterpki DIR SERVER SERVER-ADDRESS,.. [NODE=ADDRESS..]")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], strings.Split(os.Args[3], ","), os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "clusterpki:", err)
		os.Exit(1)
	}
}

// A part of the cluster that calls the API server: its name, and the groups that give it rights.
type caller struct {
	file   string
	name   string
	groups []string
}

func write(dir, server string, addresses, nodes []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(dir)
	if err != nil {
		return err
	}
	names := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost",
	}, addresses...)
	if err := ca.issue("apiserver", "kube-apiserver", nil, x509.ExtKeyUsageServerAuth, names); err != nil {
		return err
	}
	callers := []caller{
		{"admin", "admin", []string{"system:masters"}},
		{"kube-controller-manager", "system:kube-controller-manager", nil},
		{"kube-scheduler", "system:kube-scheduler", nil},
		{"kube-proxy", "system:kube-proxy", nil},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}},
	}
	for _, node := range nodes {
		name, address, ok := strings.Cut(node, "=")
		if !ok {
			return fmt.Errorf("%q is not NODE=ADDRESS", node)
		}
		callers = append(callers, caller{"kubelet-" + name, "system:node:" + name, []string{"system:nodes"}})
		err := ca.issue("kubelet-server-"+name, "system:node:"+name, []string{"system:nodes"},
			x509.ExtKeyUsageServerAuth, []string{name, address, "127.0.0.1"})
		if err != nil {
			return err
		}
	}
	for _, who := range callers {
		if err := ca.issue(who.file, who.name, who.groups, x509.ExtKeyUsageClientAuth, nil); err != nil {
			return err
		}
		if err := ca.kubeconfig(who.file, server); err != nil {
			return err
		}
	}
	return tokenKeys(dir)
}

// authority signs; its key is written too, since the controller manager signs with it.
type authority struct {
	dir         string
	certificate *x509.Certificate
	pem         []byte
	key         crypto.Signer
	serial      int64
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test cluster"},
		NotBefore:             time.Now().Add(-lifetime / 2),
		NotAfter:              time.Now().Add(lifetime / 2),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	ca := &authority{dir: dir, certificate: certificate, pem: block("CERTIFICATE", der), key: key, serial: 1}
	if err := ca.put("ca.crt", ca.pem); err != nil {
		return nil, err
	}
	return ca, ca.putKey("ca.key", key)
}

// issue writes FILE.crt and FILE.key for names that are addresses or DNS names.
func (ca *authority) issue(file, name string, groups []string, use x509.ExtKeyUsage, names []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial),
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    ca.certificate.NotBefore,
		NotAfter:     ca.certificate.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{use},
	}
	for _, name := range names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		return fmt.Errorf("cannot sign for %s: %w", name, err)
	}
	if err := ca.put(file+".crt", block("CERTIFICATE", der)); err != nil {
		return err
	}
	return ca.putKey(file+".key", key)
}

// kubeconfig writes FILE.kubeconfig with the certificate and key of that name inside, so that the file can be
// moved. A kubeconfig is YAML, hence JSON is one.
func (ca *authority) kubeconfig(file, server string) error {
	certificate, err := os.ReadFile(filepath.Join(ca.dir, file+".crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(ca.dir, file+".key"))
	if err != nil {
		return err
	}
	type object = map[string]any
	config := object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{"name": "test", "cluster": object{
			"server": server, "certificate-authority-data": ca.pem,
		}}},
		"users": []object{{"name": file, "user": object{
			"client-certificate-data": certificate, "client-key-data": key,
		}}},
		"contexts":        []object{{"name": "test", "context": object{"cluster": "test", "user": file}}},
		"current-context": "test",
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return ca.put(file+".kubeconfig", append(text, '\n'))
}

// tokenKeys writes the pair that signs the tokens of service accounts and checks them.
func tokenKeys(dir string) error {
	ca := &authority{dir: dir}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := ca.put("sa.pub", block("PUBLIC KEY", public)); err != nil {
		return err
	}
	return ca.putKey("sa.key", key)
}

func (ca *authority) putKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return ca.put(file, block("EC PRIVATE KEY", der))
}

func (ca *authority) put(file string, contents []byte) error {
	return os.WriteFile(filepath.Join(ca.dir, file), contents, 0o600)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
