import { T } from '@start9labs/start-sdk'

export const releaseNotes = {
  en_US:
    'vLLM 0.32.0. The health line now says what vLLM is doing: how far a download is, what failed, and what to do. A change of model takes over without a manual restart, and a running model keeps serving until the next one is downloaded.',
  es_ES:
    'vLLM 0.32.0. La línea de estado dice ahora qué hace vLLM: cuánto falta de una descarga, qué ha fallado y qué hacer. Un cambio de modelo se aplica sin reinicio manual, y el modelo en uso sigue sirviendo hasta que el siguiente está descargado.',
  de_DE:
    'vLLM 0.32.0. Die Zustandszeile sagt jetzt, was vLLM tut: wie weit ein Download ist, was fehlschlug und was zu tun ist. Ein Modellwechsel greift ohne Neustart von Hand, und das laufende Modell dient weiter, bis das nächste heruntergeladen ist.',
  pl_PL:
    'vLLM 0.32.0. Wiersz stanu mówi teraz, co robi vLLM: jak daleko jest pobieranie, co się nie udało i co zrobić. Zmiana modelu działa bez ręcznego restartu, a działający model służy dalej, dopóki następny nie zostanie pobrany.',
  fr_FR:
    "vLLM 0.32.0. La ligne d'état dit désormais ce que fait vLLM : où en est un téléchargement, ce qui a échoué et que faire. Un changement de modèle prend effet sans redémarrage manuel, et le modèle en service continue jusqu'à ce que le suivant soit téléchargé.",
} satisfies T.LocaleString
