// Package netpol is upstream's NetworkPolicy suite and nothing besides.
//
// Kubernetes' own e2e binary links the suites of every group, and with them
// modules that k8s.io/kubernetes does not require. Importing the one package
// that registers the NetworkPolicy specs, with the framework's own hooks and
// flags around it, runs these specs unchanged.
package netpol

import (
	"context"
	"flag"
	"os"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	_ "k8s.io/component-base/logs/testinit"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	"k8s.io/kubernetes/test/e2e/framework/node"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	_ "k8s.io/kubernetes/test/e2e/network/netpol"
)

func TestMain(m *testing.M) {
	flags := flag.CommandLine
	config.CopyFlags(config.Flags, flags)
	framework.RegisterCommonFlags(flags)
	framework.RegisterClusterFlags(flags)
	flag.Parse()
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestNetworkPolicies(t *testing.T) {
	gomega.RegisterFailHandler(framework.Fail)
	suite, reporter := framework.CreateGinkgoConfig()
	ginkgo.RunSpecs(t, "NetworkPolicy", suite, reporter)
}

// The specs ask the framework for the family; upstream's suite sets it from the
// cluster. This lab has IPv4.
var _ = ginkgo.BeforeSuite(func(ctx context.Context) {
	framework.TestContext.IPFamily = "ipv4"
	client, err := framework.LoadClientset()
	framework.ExpectNoError(err, "reading the kubeconfig")
	patience := framework.NewTimeoutContext().NodeSchedulable
	framework.ExpectNoError(node.WaitForAllNodesSchedulable(ctx, client, patience), "waiting for nodes")
})
