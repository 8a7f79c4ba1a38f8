import { T } from '@start9labs/start-sdk'

export const short = {
  en_US: 'Serve large language models from your own hardware',
  es_ES: 'Sirva grandes modelos de lenguaje desde su propio hardware',
  de_DE: 'Große Sprachmodelle auf eigener Hardware bereitstellen',
  pl_PL: 'Udostępniaj duże modele językowe na własnym sprzęcie',
  fr_FR: 'Servez de grands modèles de langage depuis votre matériel',
} satisfies T.LocaleString

export const long = {
  en_US:
    'vLLM is an inference engine with an OpenAI-compatible API. Choose a model, copy the key, and point any client at your server. The service downloads the model, starts vLLM, proves that it answers, and says in one line what it is doing and what to do when something is wrong.',
  es_ES:
    'vLLM es un motor de inferencia con una API compatible con OpenAI. Elija un modelo, copie la clave y dirija cualquier cliente a su servidor. El servicio descarga el modelo, inicia vLLM, comprueba que responde y dice en una línea qué está haciendo y qué hacer cuando algo va mal.',
  de_DE:
    'vLLM ist eine Inferenz-Engine mit OpenAI-kompatibler API. Modell wählen, Schlüssel kopieren und einen beliebigen Client auf den Server richten. Der Dienst lädt das Modell herunter, startet vLLM, beweist, dass es antwortet, und sagt in einer Zeile, was er tut und was zu tun ist, wenn etwas nicht stimmt.',
  pl_PL:
    'vLLM to silnik wnioskowania z API zgodnym z OpenAI. Wybierz model, skopiuj klucz i skieruj dowolnego klienta na swój serwer. Usługa pobiera model, uruchamia vLLM, sprawdza, że odpowiada, i mówi w jednym wierszu, co robi i co zrobić, gdy coś jest nie tak.',
  fr_FR:
    "vLLM est un moteur d'inférence avec une API compatible OpenAI. Choisissez un modèle, copiez la clé et dirigez n'importe quel client vers votre serveur. Le service télécharge le modèle, démarre vLLM, vérifie qu'il répond et dit en une ligne ce qu'il fait et que faire quand quelque chose ne va pas.",
} satisfies T.LocaleString

/** What a machine is told that cannot take a variant. The type takes no other languages. */
export const reasons = {
  nvidia: 'An NVIDIA GPU with its driver',
  rocm: 'A discrete AMD GPU (Navi, Radeon RX, Radeon VII or Instinct)',
}
