// Holds objects of Gateway API, KEDA and the Prometheus operator to the rules of their schemas:
// enumerations, formats, patterns. Reads them from standard input as a JSON array, writes what is
// wrong as one line each.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const group = object.apiVersion.split("/")[0];
  const folder = `${process.argv[2]}/node_modules/${PACKAGES[group]}`;
  const file = pathToFileURL(`${folder}/${object.apiVersion}/${object.kind}.js`);
  const model = new (await import(file))[object.kind](object);
  try {
    model.validate();
  } catch (error) {
    console.log(`${object.kind}/${object.metadata.name}: ${error.message.replaceAll("\n", " ")}`);
  }
}
